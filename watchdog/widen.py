"""`metrics.csv` of an older Adam, which lacks columns: the same rows under all of them.

The new file is written whole beside the old one and takes its name, so whoever opens it, and a crash at any moment, finds one or the other.
Whoever reads the old one by an open descriptor (`tail -f`) is told in it that there is a new one.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from operator import itemgetter
from pathlib import Path

from adam.contract.durable import free_bytes, is_at, remove_temporaries, replace_file_by, whole_lines, write_all
from adam.contract.metrics import COLUMNS, columns_of, header

FAREWELL = b"# this file has more columns now and was replaced: `tail -f` it again\n"
BLOCK_ROWS = 4000
ROOM = 2  # times the old size that must be free: nothing is begun that fills the disk


def columns_with(there: tuple[str, ...]) -> tuple[str, ...] | None:
    """The columns that a file with `there` is to have: ours, and behind them what only a newer Adam knows.

    None for a file that is none of ours.
    """
    if not {"attempt", "step"} <= set(there):
        return None
    return (*COLUMNS, *(name for name in there if name not in COLUMNS))


def widen(path: Path, columns: tuple[str, ...], alive: Callable[[], None] = lambda: None) -> None:
    """Replace `path` by its rows under `columns`; cells that it has no value for are empty. Raises OSError: the file is then as it was, or
    has all columns already (its directory can't be made durable).

    `alive` is called now and then: millions of rows take many seconds.
    """
    remove_temporaries(path)  # of a watchdog that was killed here
    if free_bytes(path.parent) < ROOM * path.stat().st_size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    with ExitStack() as stack:
        old = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        stack.callback(os.close, old)
        stack.callback(_say_farewell, old, path)
        replace_file_by(path, blocks(path, columns, alive))


def _say_farewell(old: int, path: Path) -> None:
    """In the old file, where there is a new one. A full disk costs its readers this word, and the new file nothing."""
    if not is_at(old, path):
        with suppress(OSError):
            write_all(old, FAREWELL)


def blocks(path: Path, columns: tuple[str, ...], alive: Callable[[], None]) -> Iterator[bytes]:
    """The new file, some rows at a time. A row that has not as many cells as the old header was torn by the disk, and is left out."""
    lines = whole_lines(path)
    there = columns_of(next(lines)[1])
    # len(there): the empty cell.
    ordered = itemgetter(*(there.index(name) if name in there else len(there) for name in columns))
    block = [header(columns)]
    for _, line in lines:
        cells = line.split(b",")
        if len(cells) == len(there):
            cells.append(b"")
            block.append(b",".join(ordered(cells)))
        if len(block) == BLOCK_ROWS:
            yield b"\n".join(block) + b"\n"
            block = []
            alive()
    if block:
        yield b"\n".join(block) + b"\n"


def move_aside(path: Path) -> str:
    """Give the file a name that is nobody's yet; that name."""
    number = 1
    while (target := path.with_name(f"{path.stem}-old-{number}{path.suffix}")).exists():
        number += 1
    path.rename(target)
    return target.name
