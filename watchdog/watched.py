"""Files that others replace: read again only when they have changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


def mark(path: Path) -> tuple[int, int, int] | None:
    """Inode, time of change, size; None where there is no such file. A replaced file has another inode."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


class Watched(Generic[T]):
    """The value of `load`, computed again when one of `paths` has changed."""

    def __init__(self, load: Callable[[], T], *paths: Path) -> None:
        self._load, self._paths = load, paths
        self._marks: list[tuple[int, int, int] | None] | None = None

    def get(self) -> T:
        marks = [mark(path) for path in self._paths]
        if marks != self._marks:
            self._value = self._load()
            self._marks = marks
        return self._value
