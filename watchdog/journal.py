"""`events.jsonl`, written line by line. What a full disk does not take is kept for later, a bounded number of it."""

from collections import deque
from pathlib import Path
from typing import Any

from structlog.typing import FilteringBoundLogger

from adam.contract.clock import stamp
from adam.contract.durable import LineAppender
from adam.contract.events import event
from adam.contract.records import encode_line

MOST_WAITING = 1000


class Journal:
    """Tells events to the file and to the log. `trouble` says why the file can't be written; empty: it can."""

    def __init__(self, path: Path, log: FilteringBoundLogger) -> None:
        self._path, self._log = path, log
        self._file: LineAppender | None = None
        self._waiting: deque[bytes] = deque(maxlen=MOST_WAITING)
        self.trouble = ""

    def tell(self, kind: str, text: str, /, **facts: Any) -> None:
        told = event(kind, text, stamp(), **{key: value for key, value in facts.items() if value is not None})
        self._log.info(kind, text=text, **told.facts)
        self._waiting.append(encode_line(told))
        self.flush()

    def flush(self) -> None:
        """Write what waits; called at every turn of the loop."""
        try:
            while self._waiting:
                if self._file is None:
                    self._file = LineAppender(self._path)
                self._file.append(self._waiting[0])
                self._waiting.popleft()
            self.trouble = ""
        except OSError as error:
            self.trouble = f"{self._path.name} can't be written: {error.strerror}"
