"""File operations that survive a crash: atomic replacement, and appending behind a tail that may be torn.

Bytes are written by os.open and os.write, never by open(): tests/support/disk_calls.py stands between these and the disk
(and os.rename, os.mkdir, …, which pathlib calls), to record what a crash can lose and to make each call fail.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
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


def fsync_file(path: Path) -> None:
    """Make the bytes at `path` durable, and its name."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    fsync_dir(path.parent)


def make_directories(path: Path) -> None:
    """Make `path` and its missing parents, and their names durable: a run that was begun is there after a power cut."""
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for directory in reversed(missing):
        fsync_dir(directory.parent)


def is_at(fd: int, path: Path) -> bool:
    """False where somebody has deleted the open file `fd` from `path`, or put another in its place: what is written there nobody reads."""
    try:
        return path.stat().st_ino == os.fstat(fd).st_ino
    except FileNotFoundError:
        return False


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`: a disk that fills up takes part of it first, and says so at the next call only."""
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


@contextmanager
def new_file(path: Path, *, durable: bool = True) -> Iterator[int]:
    """The descriptor of a new, empty file. Behind the block its bytes are durable; its name is so by `fsync_dir` only."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        yield fd
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace `path` with `data` so that a reader, or a crash, sees the old bytes or the new ones.

    `durable=False` leaves out the fsyncs: for files that mean nothing after a reboot.
    Raises OSError (with the file name) where the disk is full or can't be written; the old file is then still there,
    but for a directory that can't be fsynced: then it is the new one.
    """
    replace_file_by(path, (data,), durable=durable)


def replace_file_by(path: Path, blocks: Iterable[bytes], *, durable: bool = True) -> None:
    """As `replace_file`, with bytes that come one block after the other."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with new_file(temporary, durable=durable) as fd:
            for block in blocks:
                write_all(fd, block)
        temporary.rename(path)
        if durable:
            fsync_dir(path.parent)
    except OSError as error:
        with suppress(OSError):  # the first error is the one to tell
            temporary.unlink(missing_ok=True)
        if error.filename is None:
            error.filename = str(path)
        raise


def remove_temporaries(path: Path) -> None:
    """Delete what killed writers of `path` have left of their new files. For its one writer only."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        left.unlink(missing_ok=True)


def remove_tree(directory: Path) -> None:
    """Delete `directory` and all in it; nothing is done where there is none. Raises OSError."""
    if not directory.exists():
        return
    for path in list(directory.iterdir()):
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink()
    directory.rmdir()


def mend_tail(path: Path) -> int:
    """Cut off `path` what is no whole line; the bytes cut, 0 where there is nothing to mend.

    That is a last line without its newline, and all from a NUL byte on: after a power cut the blocks of a file's end that
    never reached the disk read as zeros, with newer blocks behind them.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        size = os.fstat(fd).st_size
        keep = _end_of_lines(fd, _first_nul(fd, size))
        if keep < size:
            os.ftruncate(fd, keep)
            os.fsync(fd)
    finally:
        os.close(fd)
    return size - keep


def _first_nul(fd: int, size: int) -> int:
    """Where the first NUL byte is; `size` where there is none."""
    for start in range(0, size, COPY_BLOCK):
        found = os.pread(fd, COPY_BLOCK, start).find(b"\0")
        if found >= 0:
            return start + found
    return size


def _end_of_lines(fd: int, end: int) -> int:
    """Where the last whole line before `end` ends."""
    while end > 0:
        start = max(0, end - COPY_BLOCK)
        newline = os.pread(fd, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


class LineAppender:
    """Appends whole lines to `path`, each by one write; what a crash left of a line is cut off first (`mend_tail`).

    One writer a file. A full disk takes part of a line at most: the part is cut off again, and OSError is raised.
    The lines are durable by an fsync of others (the keeper's, before a checkpoint); the file's name is so from the start.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mended = mend_tail(path)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._torn_from: int | None = None  # where a part of a line begins that could not be cut off yet
        try:
            fsync_dir(path.parent)
        except BaseException:
            os.close(self._fd)
            raise

    def is_there(self) -> bool:
        """See `is_at`."""
        return is_at(self._fd, self.path)

    def append(self, line: bytes) -> None:
        """Append `line` and a newline."""
        data = line + b"\n"
        try:
            self._cut()
            written = os.write(self._fd, data)
            if written < len(data):
                self._torn_from = os.fstat(self._fd).st_size - written
                self._cut()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            error.filename = str(self.path)
            raise

    def _cut(self) -> None:
        if self._torn_from is not None:
            os.ftruncate(self._fd, self._torn_from)
            self._torn_from = None

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


def log_lines(path: Path, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """As `whole_lines`, of a log that a power cut may have left zeros in: nothing from a NUL byte on (see `mend_tail`)."""
    for end, line in whole_lines(path, offset):
        if b"\0" in line:
            return
        yield end, line


def last_line(path: Path, good: Callable[[bytes], bool] = lambda _: True) -> bytes | None:
    """The last complete line of `path` that has no NUL byte and is `good`, read from its end; None where there is none."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        start = file.seek(0, os.SEEK_END)
        tail = b""
        while start > 0:
            step = min(start, 1 << 16)
            start -= step
            file.seek(start)
            tail = file.read(step) + tail
            lines = tail.split(b"\n")[1 if start else 0 : -1]
            found = (line for line in reversed(lines) if b"\0" not in line and good(line))
            if (line := next(found, None)) is not None:
                return line
    return None


def sha256_file(path: Path, told: Callable[[int], None] = lambda _: None) -> str:
    """The SHA-256 of a file's bytes, in hex. `told` hears of each so many bytes, for a bar."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(COPY_BLOCK):
            digest.update(block)
            told(len(block))
    return digest.hexdigest()


def copy_hashed(source: IO[bytes], target: int) -> str:
    """Copy `source` to the descriptor `target` from where they stand, and give the SHA-256 of what was copied, in hex."""
    digest = hashlib.sha256()
    while block := source.read(COPY_BLOCK):
        digest.update(block)
        write_all(target, block)
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
