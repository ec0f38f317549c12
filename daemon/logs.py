"""`adamctl logs`: the end of a log, and with -f what is added to it, through rotation and creation."""

import argparse
import sys
import time
from pathlib import Path
from typing import BinaryIO

from adam.contract.errors import UsageError
from adam.contract.paths import RunPaths
from adam.daemon.run_of import run_of

POLL_S = 0.25
BLOCK = 1 << 16
DEFAULTS = ("trainer", "forge", "watchdog", "supervisord")  # the first that is there
KNOWN = (*DEFAULTS, "watchdog-output", "launcher-trainer", "launcher-forge", "stacks")


def run(arguments: argparse.Namespace) -> int:
    paths = run_of(arguments)
    path = choose(paths, arguments.part, waits=arguments.follow)
    print(f"==> {path} <==", file=sys.stderr, flush=True)
    position = show_end(path, arguments.lines)
    if arguments.follow:
        follow(path, position)
    return 0


def choose(paths: RunPaths, part: str | None, *, waits: bool) -> Path:
    """The log of `part`. Raises UsageError naming what there is; `waits`: one that is not there yet will do."""
    there = sorted(path.stem for path in paths.logs.glob("*.log"))
    if part is None:
        part = next((name for name in DEFAULTS if name in there), DEFAULTS[0])
    if part in there or (waits and part in KNOWN):
        return paths.log(part)
    raise UsageError(
        f"no log of {part}", f"there are logs of: {', '.join(there)}" if there else "there are no logs yet"
    )


def show_end(path: Path, lines: int) -> int:
    """Print the last lines; the position behind them."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return 0
    with file:
        end = start = file.seek(0, 2)
        data = b""
        while start > 0 and data.count(b"\n") <= lines:
            step = min(start, BLOCK)
            start -= step
            file.seek(start)
            data = file.read(step) + data
    wanted = data.splitlines(keepends=True)[-lines:] if lines > 0 else []
    write(b"".join(wanted))
    return end


def follow(path: Path, position: int) -> None:
    """Print what is added, until Ctrl-C. A file that was rotated is read to its end, then the new one from its beginning."""
    tail = Tail(path, position)
    try:
        while True:
            write(tail.read())
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        return


class Tail:
    """What is added to a file that may be replaced, cut short, or not there yet."""

    def __init__(self, path: Path, position: int) -> None:
        self._path, self._position = path, position
        self._file: BinaryIO | None = None

    def read(self) -> bytes:
        """What is new since the last call."""
        data = self._read_open()
        if self._file is None or self._replaced():
            self._open_anew()
            data += self._read_open()
        return data

    def _read_open(self) -> bytes:
        if self._file is None:
            return b""
        size = self._file.seek(0, 2)
        self._position = 0 if size < self._position else self._position
        self._file.seek(self._position)
        data = self._file.read()
        self._position += len(data)
        return data

    def _replaced(self) -> bool:
        if self._file is None:
            return False
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return False
        before = Path(f"/proc/self/fd/{self._file.fileno()}").stat()
        return (now.st_dev, now.st_ino) != (before.st_dev, before.st_ino)

    def _open_anew(self) -> None:
        was_open = self._file is not None
        self.close()
        try:
            self._file = self._path.open("rb")
        except FileNotFoundError:
            return
        if was_open:
            self._position = 0

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def write(data: bytes) -> None:
    """Bytes as they are: a log may have anything in it."""
    if data:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
