"""Locks on directories: nothing to clean up, for the kernel lets go of them when their holder dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def flocked(directory: Path, how: int) -> Iterator[bool]:
    """The flock of a directory while the block lasts; False where LOCK_NB was asked for and somebody else has it.

    Raises FileNotFoundError, NotADirectoryError where there is no such directory.
    """
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield _lock(fd, how)
    finally:
        os.close(fd)


def _lock(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how)
    except BlockingIOError:
        return False
    return True
