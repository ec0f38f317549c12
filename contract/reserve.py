"""Replacing the few small files that must be written on a full disk too: the state, the plan, how a program ended, what people want.

    .status.json.spare  .status.json.spare2      allocated while there is room

A file that can't be replaced in the ordinary way is written into the first spare and exchanged with it: what it replaces is the next
spare, so the blocks never leave our hands, however greedy others are. The second one takes the place of the file that was written in
the ordinary way, and may be too short.
"""

import ctypes
import errno
import os
from contextlib import suppress
from pathlib import Path

from adam.contract.durable import fsync_dir, replace_file, write_all

ROOM = 16384  # bytes that a spare has at least
BLOCK = 4096
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
RENAME_EXCHANGE, AT_FDCWD = 2, -100
_libc = ctypes.CDLL(None, use_errno=True)


def replace_reserved(path: Path, data: bytes, *, durable: bool = True) -> None:
    """As `durable.replace_file`, and from the reserve where the disk is full. Bytes from there end in blanks.

    Raises OSError where that fails too: the old file is then still there.
    """
    room = max(ROOM, -(-2 * len(data) // BLOCK) * BLOCK)
    try:
        replace_file(path, data, durable=durable)
    except OSError as error:
        if error.errno not in NO_ROOM or not _from_reserve(path, data):
            raise
    else:
        make_reserve(path, room)


def make_reserve(path: Path, room: int = ROOM) -> None:
    """Keep blocks for `path`, where they are not kept yet; without them it is as with any other file."""
    with suppress(OSError):
        for spare in spares(path):
            _allocate(spare, room)


def spares(path: Path) -> tuple[Path, Path]:
    """The two files that keep blocks for `path`."""
    return path.with_name(f".{path.name}.spare"), path.with_name(f".{path.name}.spare2")


def _allocate(spare: Path, room: int) -> None:
    if _size(spare) >= room:
        return
    fd = os.open(spare, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        os.posix_fallocate(fd, 0, room)
    finally:
        os.close(fd)


def _size(path: Path) -> int:
    """Bytes; 0 where there is no such file."""
    return path.stat().st_size if path.exists() else 0


def _from_reserve(path: Path, data: bytes) -> bool:
    """Write `data` into a spare and exchange it for `path`. False where there is none, or it is too short."""
    first, second = spares(path)
    try:
        fd = os.open(first, os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        room = os.fstat(fd).st_size
        if room < len(data):
            return False
        write_all(fd, data.ljust(room))
        os.fsync(fd)
    finally:
        os.close(fd)
    exchange(first, path)
    with suppress(OSError):  # this write is done; the next one may have less room
        if _size(first) < room <= _size(second):
            second.rename(first)
        fsync_dir(path.parent)
    return True


def exchange(one: Path, other: Path) -> None:
    """Each gets the other's name, at once; where the file system can't do that, or `other` is missing, `one` is renamed. Raises OSError."""
    done: int = _libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE)
    if done == 0:
        return
    number = ctypes.get_errno()
    if number not in (errno.ENOENT, errno.EINVAL, errno.ENOSYS):
        raise OSError(number, os.strerror(number), str(other))
    one.rename(other)
