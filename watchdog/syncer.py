"""Makes a file durable behind the loop's back: an fsync may take minutes, or never return, and a watchdog must not stand still for it."""

import threading
from pathlib import Path

from adam.contract.durable import fsync_file


class Syncer:
    """For one file that is replaced again and again. `trouble` says why the last one could not be made durable; empty: it could.

    There is a thread while there is something to do; it ends with the process, where the disk lets it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = threading.Condition()
        self._asked = self._done = 0
        self._works = False
        self.trouble = ""

    def ask(self) -> None:
        """Begin to make durable what is at the path now."""
        with self._changed:
            self._asked += 1
            if not self._works:
                self._works = True
                threading.Thread(target=self._work, name="syncer", daemon=True).start()

    def wait(self, seconds: float) -> bool:
        """True where all that was asked for is done, or has failed; after `seconds` at the latest."""
        with self._changed:
            return self._changed.wait_for(lambda: self._done == self._asked, seconds)

    def _work(self) -> None:
        while self._works:
            asked = self._asked
            try:
                fsync_file(self._path)
                self.trouble = ""
            except OSError as error:
                self.trouble = f"{self._path.name} can't be made durable: {error.strerror}"
            with self._changed:
                self._done = asked
                self._works = self._done < self._asked
                self._changed.notify_all()
