"""Records what code does to a directory as the operations of `crash_disk`."""

import os
import sys
from pathlib import Path
from typing import Any

from crash_disk import ROOT, Bytes, Directory, Disk, Made, Mapped, Names, Op, Sync, Tree
from disk_calls import DiskCalls

PRODUCT = Path(__file__).parents[2]


class Killed(BaseException):
    """The process is killed: raised by every call from the one that is chosen on."""


class Recorder(DiskCalls):
    """Records into `log`, from an empty directory on. Other things that happen may be appended to the log too."""

    def __init__(self, root: Path, apart: tuple[Path, ...]) -> None:
        super().__init__(root, apart)
        self.log: list[Any] = []
        self.disk = Disk()
        self.calls_left = -1  # before it is killed; negative: it is not
        self._descriptors: dict[int, int] = {}

    def perform(self, name: str, path: Path, *arguments: Any) -> Any:
        if self.calls_left == 0 and name != "close":
            raise Killed
        self.calls_left -= name != "close"
        if name in ("rename", "replace"):
            self._renamed(path, Path(os.fsdecode(arguments[1])), lambda: self.real[name](*arguments))
            return None
        node = self._node(path) if name in ("open", "unlink", "rmdir", "mkdir") else self._descriptors[arguments[0]]
        result = self.real[name](*arguments)
        match name:
            case "open":
                self._opened(path, node, arguments[1], result)
            case "close":
                del self._descriptors[arguments[0]]
            case "write":
                end = os.lseek(arguments[0], 0, os.SEEK_CUR)
                self._add(Bytes(node, end - result, bytes(arguments[1][:result])))
            case "pwrite":
                self._add(Bytes(node, arguments[2], bytes(arguments[1][:result])))
            case "ftruncate":
                self._add(Bytes(node, arguments[1], None))
            case "fsync" | "fdatasync":
                self._add(Sync(node, site_of(sys._getframe(1))))
            case "unlink" | "rmdir":
                self._add(Names(self._node(path.parent), {path.name: None}))
            case "mkdir":
                self._make(path, directory=True)
        return result

    def tell(self, what: object) -> None:
        """Note in the log what the world knows from here on."""
        self.log.append(what)

    def mapped(self, path: Path) -> None:
        """A file has been written through a mapping."""
        self._add(Mapped(self._node(path), path.read_bytes()))

    def write_back(self, path: Path) -> None:
        """The kernel has got round to a file, or a directory's names: nobody asked for it, and nobody may rely on it."""
        self._add(Sync(self._node(path), "the tests"))

    def _add(self, op: Op) -> None:
        self.log.append(op)
        self.disk.apply(op)

    def _make(self, path: Path, *, directory: bool) -> int:
        node = len(self.disk.nodes)
        self._add(Made(node, directory))
        self._add(Names(self._node(path.parent), {path.name: node}))
        return node

    def _opened(self, path: Path, node: int, flags: int, fd: int) -> None:
        if node is None:
            node = self._make(path, directory=False)
        elif flags & os.O_TRUNC:
            self._add(Bytes(node, 0, None))
        self._descriptors[fd] = node

    def _renamed(self, old: Path, new: Path, call: Any) -> None:
        node, before, after = self._node(old), self._node(old.parent), self._node(new.parent)
        call()
        if before == after:
            self._add(Names(before, {old.name: None, new.name: node}))
        else:
            self._add(Names(after, {new.name: node}))
            self._add(Names(before, {old.name: None}))

    def _node(self, path: Path) -> Any:
        """The node of `path` as programs see it; None where there is nothing."""
        node: int | None = ROOT
        for part in path.relative_to(self.root).parts:
            directory = self.disk.nodes[node] if node is not None else None
            node = directory.after(-1).get(part) if isinstance(directory, Directory) else None
        return node


def site_of(frame: Any) -> str:
    """From where in the product a call came: up to the first function that is not one of `durable.py`."""
    found = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.parent.name in ("contract", "watchdog", "trainer") and path.resolve().is_relative_to(PRODUCT):
            found.append(f"{path.name}:{frame.f_lineno} {frame.f_code.co_name}")
            if path.name != "durable.py":
                break
        frame = frame.f_back
    return " < ".join(found) or "the tests"


def real_tree(calls: DiskCalls) -> Tree:
    """What is really there."""
    return {
        str(path.relative_to(calls.root)): path.read_bytes() if path.is_file() else None
        for path in sorted(calls.root.rglob("*"))
        if calls.holds(path)
    }
