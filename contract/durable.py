"""File operations that survive a crash: atomic replacement, and appending behind a tail that may be torn."""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from adam.contract.errors import DiskError

COPY_BLOCK = 1 << 20


def fsync_dir(directory: Path) -> None:
    """Make the names in `directory` durable (a rename is only as durable as its directory)."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace `path` with `data` so that a reader, or a crash, sees the old bytes or the new ones.

    `durable=False` leaves out the fsyncs: for files that mean nothing after a reboot.
    Raises OSError (with the file name) where the disk is full or can't be written; the old file is then still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.filename is None:
            error.filename = str(path)
        raise
    if durable:
        fsync_dir(path.parent)


def mend_tail(path: Path) -> int:
    """Cut a torn last line (one without its newline) off `path`; the bytes cut, 0 where there is nothing to mend."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return 0
    keep = size
    with path.open("r+b") as file:
        while keep > 0:
            start = max(0, keep - COPY_BLOCK)
            file.seek(start)
            newline = file.read(keep - start).rfind(b"\n")
            if newline >= 0:
                keep = start + newline + 1
                break
            keep = start
        if keep < size:
            file.truncate(keep)
            os.fsync(file.fileno())
    return size - keep


class LineAppender:
    """Appends whole lines to `path`, each by one write; a torn tail of an earlier writer is cut off first.

    One writer a file. A full disk takes part of a line at most: the part is cut off again, and OSError is raised.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mended = mend_tail(path)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def append(self, line: bytes) -> None:
        """Append `line` and a newline."""
        data = line + b"\n"
        try:
            written = os.write(self._fd, data)
        except OSError as error:
            error.filename = str(self.path)
            raise
        if written < len(data):
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def close(self) -> None:
        os.close(self._fd)


def whole_lines(path: Path, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """The complete lines of `path` from byte `offset`: (offset behind the line, the line without its newline).

    A torn tail is not given. A missing file has no lines.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            yield offset, line[:-1]


def last_line(path: Path) -> bytes | None:
    """The last complete line of `path`, read from its end; None where there is none."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        start = file.seek(0, os.SEEK_END)
        tail = b""
        while start > 0 and tail.count(b"\n") < 2:
            step = min(start, 1 << 16)
            start -= step
            file.seek(start)
            tail = file.read(step) + tail
    lines = tail.split(b"\n")[:-1]
    return lines[-1] if lines else None


def sha256_file(path: Path, told: Callable[[int], None] = lambda _: None) -> str:
    """The SHA-256 of a file's bytes, in hex. `told` hears of each so many bytes, for a bar."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(COPY_BLOCK):
            digest.update(block)
            told(len(block))
    return digest.hexdigest()


def copy_hashed(source: IO[bytes], target: IO[bytes]) -> str:
    """Copy `source` to `target` from where they stand, and give the SHA-256 of what was copied, in hex."""
    digest = hashlib.sha256()
    while block := source.read(COPY_BLOCK):
        digest.update(block)
        target.write(block)
    return digest.hexdigest()


def free_bytes(directory: Path) -> int:
    """Bytes that an ordinary user can still write on the file system of `directory` (or of its nearest parent that exists)."""
    while not directory.exists() and directory != directory.parent:
        directory = directory.parent
    return shutil.disk_usage(directory).free


def require_room(directory: Path, need: int, purpose: str, *, free: int | None = None) -> None:
    """Raise DiskError before anything is written where `directory` has no room for `need` bytes."""
    have = free_bytes(directory) if free is None else free
    if have < need:
        raise DiskError(
            f"no room for {purpose} in {directory}: {human_bytes(need)} needed, {human_bytes(have)} free",
            "free some space or choose another disk with --run",
        )


def human_bytes(count: float) -> str:
    """`33.2 GB` of a number of bytes, in powers of ten as disks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
