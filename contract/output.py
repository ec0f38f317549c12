"""What a service prints, on a disk that may be full: a log that takes nothing must neither end the program nor hide why it ended.

Python raises where a print can't be written, and ends with code 120 where what is left of it can't be. The launcher gives its program a
file in memory as well, for its last words.
"""

import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

LAST_WORDS = "ADAM_LAST_WORDS"  # the descriptor, in a program's environment
MEMORY_NAME = "adam-last-words"


class _Lossy(io.FileIO):
    """A descriptor that takes everything, and loses what can't be written."""

    def write(self, data: Any, /) -> int:
        with suppress(OSError):
            return super().write(data) or 0
        return len(data)


def never_fail() -> None:
    """From now on this process's stdout and stderr raise nothing; a line is written as soon as it is whole."""
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(
            io.BufferedWriter(_Lossy(fd, "w", closefd=False)), errors="backslashreplace", line_buffering=True
        )
        for fd in (1, 2)
    )


def last_words(line: str) -> None:
    """`line` on stderr, and to the launcher, which tells it where stderr could not be written."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # else Python flushes in vain at its end, and makes the code 120
    tell_launcher(line)


def tell_launcher(line: str) -> None:
    """`line` to the launcher alone, where there is one."""
    with suppress(OSError, ValueError):
        fd = int(os.environ.get(LAST_WORDS, "-1"))
        # A child of the program may have the number in its environment and something else behind it.
        if fd >= 0 and MEMORY_NAME in str(Path(f"/proc/self/fd/{fd}").readlink()):
            os.pwrite(fd, line.encode(errors="replace")[:4096], 0)


def memory_for_last_words() -> int:
    """A descriptor to be passed to a program, its number in the environment as LAST_WORDS."""
    return os.memfd_create(MEMORY_NAME, os.MFD_CLOEXEC)


def read_last_words(fd: int) -> str:
    return os.pread(fd, 4096, 0).decode(errors="replace")
