"""Stands between the code and the calls of `os` that change a disk, for all below one directory.

`DiskCalls` only passes them on. `crash_record.Recorder` writes them down, `test_failing_disk.FailingDisk` makes them fail.
"""

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from adam.contract import reserve

OF_DESCRIPTORS = ("close", "write", "pwrite", "fsync", "fdatasync", "ftruncate", "posix_fallocate")
# Where each call is looked up: os has no exchange of two names, which is ours.
OWNERS: dict[str, Any] = {
    **dict.fromkeys((*OF_DESCRIPTORS, "open", "rename", "replace", "unlink", "mkdir", "rmdir"), os),
    "exchange": reserve,
}


class DiskCalls:
    """While entered, calls on files below `root` go through `perform`; those `apart` do not (memory, and what a reboot ends)."""

    def __init__(self, root: Path, apart: tuple[Path, ...]) -> None:
        self.root, self.apart = root, apart
        self.open_files: dict[int, Path] = {}
        self.real: dict[str, Callable[..., Any]] = {}

    def __enter__(self) -> "DiskCalls":
        self.real = {name: getattr(owner, name) for name, owner in OWNERS.items()}
        for name, owner in OWNERS.items():
            setattr(owner, name, self._stand_in(name))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, function in self.real.items():
            setattr(OWNERS[name], name, function)

    def perform(self, name: str, path: Path, *arguments: Any) -> Any:
        """Make the call. `path` is that of the file, also where the call has a descriptor (the first of `arguments`)."""
        return self.real[name](*arguments)

    def holds(self, path: Path) -> bool:
        return path.is_relative_to(self.root) and not any(path.is_relative_to(other) for other in self.apart)

    def _stand_in(self, name: str) -> Callable[..., Any]:
        def call(first: Any, *others: Any, **options: Any) -> Any:
            if name in OF_DESCRIPTORS:
                path = self.open_files.get(first)
            else:
                path = Path(os.fsdecode(first)) if isinstance(first, (str, bytes, os.PathLike)) else None
                if path is not None and options.get("dir_fd") is not None:
                    path = Path(f"/proc/self/fd/{options['dir_fd']}").readlink() / path
                    assert not self.holds(path), f"os.{name} of {path} with a directory descriptor"
            if path is None or not self.holds(path):
                return self.real[name](first, *others, **options)
            result = self.perform(name, path, first, *others, *options.values())
            self._follow(name, path, first, result)
            return result

        return call

    def _follow(self, name: str, path: Path, first: Any, result: Any) -> None:
        if name == "open":
            self.open_files[result] = path
        elif name == "close":
            del self.open_files[first]
