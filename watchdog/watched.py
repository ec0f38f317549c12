"""Files that others replace: read again only when they have changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from adam.contract.errors import AdamError

T = TypeVar("T")
NOTHING: object = object()


def mark(path: Path) -> tuple[int, int, int] | None:
    """Inode, time of change, size; None where there is no such file. A replaced file has another inode."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


class Watched(Generic[T]):
    """The value of `load`, computed again when one of `paths` has changed.

    What can't be read any more (damaged, of a newer Adam, on a disk that fails) is as it was, and `trouble` says so: whoever watches over a
    run must not end for it. A first time raises what `load` does, unless `otherwise` is the value then.
    """

    def __init__(self, load: Callable[[], T], *paths: Path, otherwise: T | object = NOTHING) -> None:
        self._load, self._paths, self._value = load, paths, otherwise
        self._marks: list[tuple[int, int, int] | None] | None = None
        self.trouble = ""

    def get(self) -> T:
        try:
            marks = [mark(path) for path in self._paths]
            if marks != self._marks or self.trouble:
                self._value = self._load()
                self._marks, self.trouble = marks, ""
        except (AdamError, OSError) as error:
            if self._value is NOTHING:
                raise
            self.trouble = str(error)
        return self._value  # type: ignore[return-value]
