"""A file that grows at its end and is read anywhere. What waits to be written is dropped at a close: a full disk can't fail it."""

import os
from pathlib import Path

WAITING = 1 << 18  # bytes


class Appended:
    """The first `size` bytes of a file, made where it is missing; what is behind them is cut off."""

    def __init__(self, path: Path, size: int) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        os.truncate(self._fd, size)
        self._written, self._waiting = size, bytearray()

    @property
    def size(self) -> int:
        return self._written + len(self._waiting)

    def append(self, data: bytes) -> None:
        self._waiting += data
        if len(self._waiting) >= WAITING:
            self._write()

    def _write(self) -> None:
        while self._waiting:
            count = os.write(self._fd, self._waiting)
            self._written += count
            del self._waiting[:count]

    def read(self, size: int, at: int) -> bytes:
        """At most `size` bytes, fewer at the end."""
        if at + size > self._written:
            self._write()
        return os.pread(self._fd, size, at)

    def sync(self) -> None:
        self._write()
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)
