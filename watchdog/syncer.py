"""Makes a file durable behind the loop's back: an fsync may take minutes, or never return, and a watchdog must not stand still for it."""

import threading
from pathlib import Path

from adam.contract.durable import fsync_file


class Syncer:
    """For one file that is replaced again and again. `trouble` says why the last one could not be made durable; empty: it could.

    Its thread ends with the process, where the disk lets it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = threading.Condition()
        self._asked = self._done = 0
        self._thread: threading.Thread | None = None
        self.trouble = ""

    def ask(self) -> None:
        """Begin to make durable what is at the path now."""
        with self._changed:
            self._asked += 1
            self._changed.notify_all()
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="syncer", daemon=True)
            self._thread.start()

    def wait(self, seconds: float) -> bool:
        """True where all that was asked for is done, or has failed; after `seconds` at the latest."""
        with self._changed:
            return self._changed.wait_for(lambda: self._done == self._asked, seconds)

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._done < self._asked)
                asked = self._asked
            try:
                fsync_file(self._path)
                self.trouble = ""
            except OSError as error:
                self.trouble = f"{self._path.name} can't be made durable: {error.strerror}"
            with self._changed:
                self._done = asked
                self._changed.notify_all()
