"""A disk on which chosen calls fail: the n-th of a kind, once and for ever."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from disk_calls import OF_DESCRIPTORS, DiskCalls

KINDS = {
    "create": ("open",),
    "write": ("write", "pwrite"),
    "fsync": ("fsync", "fdatasync"),
    "rename": ("rename", "replace", "exchange"),
    "mkdir": ("mkdir",),
    "unlink": ("unlink", "rmdir"),
    "truncate": ("ftruncate",),
    "allocate": ("posix_fallocate",),
}


class FailingDisk(DiskCalls):
    """Call number `at` (from 0) of a kind fails with `error`, and all later ones too where it is `for_ever`; 0: short writes."""

    def __init__(self, root: Path, away: tuple[Path, ...], kind: str, at: int, error: int, *, for_ever: bool) -> None:
        super().__init__(root, away)
        self.kind, self.at, self.error, self.for_ever = kind, at, error, for_ever
        self.calls = 0
        self.works = False  # from when on the fault is over

    @property
    def reached(self) -> bool:
        return self.calls > self.at

    def perform(self, name: str, path: Path, *arguments: Any) -> Any:
        if name not in KINDS[self.kind] or (name == "open" and not arguments[1] & os.O_CREAT):
            return super().perform(name, path, *arguments)
        self.calls += 1
        fails = self.calls > self.at if self.for_ever else self.calls == self.at + 1
        if not fails or self.works:
            return super().perform(name, path, *arguments)
        if self.error == 0:
            return super().perform(name, path, arguments[0], arguments[1][: (len(arguments[1]) + 1) // 2])
        raise OSError(self.error, os.strerror(self.error), *([str(path)] if name not in OF_DESCRIPTORS else []))


Use = Callable[[FailingDisk], None]


def through_all(make: Callable[[int], FailingDisk], use: Use) -> int:
    """`use` disks that fail at call 0, 1, … until one is not reached; how many failed."""
    at = 0
    while True:
        with make(at) as disk:
            use(disk)
        if not disk.reached:
            return at
        at += 1
