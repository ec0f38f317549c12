"""Small files that an attempt owes to others. What the disk does not take is no reason to end: it is tried again by and by."""

import threading
import time
from pathlib import Path

import structlog

from adam.contract import schema
from adam.contract.schema import Record

AGAIN_S = 1.0

log = structlog.get_logger()


class Owed:
    """The newest record of each file that is not written yet. Used by several threads.

    One that does not write (another rank does) forgets what it is given.
    """

    def __init__(self, *, writes: bool = True) -> None:
        self._writes = writes
        self._records: dict[Path, tuple[Record, bool]] = {}
        self._lock = threading.Lock()
        self._again_at = 0.0

    def save(self, path: Path, record: Record, *, durable: bool = True) -> None:
        """Replace the file at `path` with `record`, now or later."""
        if not self._writes:
            return
        with self._lock:
            self._records[path] = record, durable
            if why := self._trouble_of(path):
                log.warning("a file can't be written yet", path=str(path), why=why)

    def write(self) -> None:
        """Try again what is not written yet."""
        if not self._records or time.monotonic() < self._again_at:
            return
        with self._lock:
            for path in list(self._records):
                self._trouble_of(path)

    def _trouble_of(self, path: Path) -> str:
        """Write it now, or say why that can't be."""
        record, durable = self._records[path]
        try:
            schema.save(path, record, durable=durable)
        except OSError as error:
            self._again_at = time.monotonic() + AGAIN_S
            return error.strerror or str(error)
        del self._records[path]
        return ""
