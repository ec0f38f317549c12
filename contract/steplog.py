"""The log of steps (`run/steps.jsonl`) on a disk that may take no row for days. None is ever dropped.

    row ──> steps.jsonl
     └──(the disk does not take it)──> waits in the trainer and in steps.jsonl in shared memory ──> steps.jsonl, when it takes rows again

The copy in shared memory lies beside the snapshots and outlives the trainer as they do: so a snapshot there may be ahead of the log on
disk, and is never ahead of both. Keys (attempt, step) only grow, so a row that is in both is known by its key, and written once.
"""

import errno
import itertools
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from adam.contract.durable import LineAppender, last_line, log_lines
from adam.contract.errors import AdamError, DiskError
from adam.contract.paths import RunPaths
from adam.contract.records import StepRow, decode_step

MOST_WAITING = 100_000  # rows, about 40 MB: then training waits


class RowKey(msgspec.Struct, frozen=True, order=True):
    """What tells rows apart."""

    attempt: int
    step: int


NO_ROW = RowKey(0, 0)
_KEYS = msgspec.json.Decoder(RowKey)


def rows_in(log: Path, offset: int = 0) -> Iterator[tuple[int, StepRow | None]]:
    """The rows of `log` from byte `offset`: (offset behind its line, the row).

    None in place of a row that can't be read: whoever follows the log goes on behind it, for a damaged line gets no better.
    """
    for end, line in log_lines(log, offset):
        try:
            row = decode_step(line, log)
        except AdamError:
            row = None
        yield end, row


def key_of(line: bytes) -> RowKey | None:
    """None where the line can't be read."""
    try:
        return _KEYS.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def newest_key(log: Path) -> RowKey:
    """Of the last row that can be read; NO_ROW where there is none."""
    line = last_line(log, lambda line: key_of(line) is not None)
    return (key_of(line) if line is not None else None) or NO_ROW


def copy_path(paths: RunPaths) -> Path:
    """Where rows wait that the disk has not taken."""
    return paths.ram / paths.steps.name


def waiting_rows(paths: RunPaths) -> list[bytes]:
    """The rows in shared memory that the log on disk does not have, in their order."""
    copied = [line for _, line in log_lines(copy_path(paths))]
    if not copied:
        return []
    behind = newest_key(paths.steps)
    return [line for line in copied if (key := key_of(line)) is not None and key > behind]


def newest_row(paths: RunPaths) -> RowKey:
    """The newest row on disk that all before it are there with: what a power cut left of the log, however it lost the rest."""
    return max((key_of(line) or NO_ROW for _, line in log_lines(paths.steps)), default=NO_ROW)


class StepLog:
    """The writer of the log. A disk that takes nothing raises nothing: `waiting` says how many rows it owes, `error` why (an errno).

    `newest` is the last row's key, whoever wrote it.
    """

    def __init__(self, paths: RunPaths) -> None:
        self.path, self._copy = paths.steps, copy_path(paths)
        self._log_file: LineAppender | None = None
        self._copy_file: LineAppender | None = None
        self._waiting = deque(waiting_rows(paths))
        self._uncopied = len(self._waiting)  # the newest of those that wait
        self.newest = (key_of(self._waiting[-1]) if self._waiting else None) or newest_key(self.path)
        if self._waiting and self._open_copy():
            self._uncopied = 0
        self.error = 0
        self.write()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """True where no more rows should wait."""
        return len(self._waiting) >= MOST_WAITING

    @property
    def copied(self) -> bool:
        """True where all that waits is in shared memory."""
        return self._uncopied == 0

    def append(self, row: bytes) -> None:
        """Take `row`, a line without its newline."""
        self._waiting.append(row)
        self._uncopied += 1
        self.newest = key_of(row) or self.newest
        self.write()

    def write(self) -> bool:
        """Write what waits to the log; what it does not take, to shared memory. True where nothing waits any more."""
        if not self._waiting:
            return True
        try:
            self._write_log()
        except OSError as error:
            self.error = error.errno or errno.EIO
            self._write_copy()
            return False
        self.error = 0
        return True

    def _write_log(self) -> None:
        if self._log_file is None:
            self._log_file = LineAppender(self.path)
        while self._waiting:
            self._log_file.append(self._waiting[0])
            self._waiting.popleft()
            self._uncopied = min(self._uncopied, len(self._waiting))
        if self._copy_file is not None:
            self._close_copy()
            with suppress(OSError):  # its rows are known by their keys
                self._copy.unlink(missing_ok=True)

    def _write_copy(self) -> None:
        if self._copy_file is not None and not self._copy_file.is_there():
            self._close_copy()  # somebody has deleted the run's memory
            self._uncopied = len(self._waiting)
        if self._copy_file is None and not self._open_copy():
            return
        try:
            for row in list(itertools.islice(self._waiting, self.waiting - self._uncopied, None)):
                assert self._copy_file is not None
                self._copy_file.append(row)
                self._uncopied -= 1
        except OSError:
            return  # no room there either: `copied` says so

    def _open_copy(self) -> bool:
        try:
            self._copy_file = LineAppender(self._copy)
        except OSError:
            return False  # there is no shared memory, or no room in it
        return True

    def _close_copy(self) -> None:
        if self._copy_file is not None:
            self._copy_file.close()
            self._copy_file = None

    def close(self) -> None:
        """Let go of the files; what waits in shared memory stays there for the next writer."""
        self._close_copy()
        if self._log_file is not None:
            self._log_file.close()
            self._log_file = None


class NoLog(StepLog):
    """The log of a rank that writes none: another does."""

    def __init__(self, paths: RunPaths) -> None:
        self.path, self.newest, self.error = paths.steps, NO_ROW, 0
        self._waiting, self._uncopied = deque(), 0

    def append(self, row: bytes) -> None:
        """Forget it."""

    def close(self) -> None:
        """Nothing is open."""


def require_logged(paths: RunPaths) -> None:
    """Raise DiskError where the log on disk has not all rows that a snapshot in memory may need: no checkpoint may be ahead of it."""
    if owed := len(waiting_rows(paths)):
        raise _owed(paths, owed)


def write_left_behind(paths: RunPaths) -> None:
    """Write what a dead trainer has left in shared memory. Raises DiskError where the disk does not take it: nothing is lost then."""
    log = StepLog(paths)
    log.close()
    if log.waiting:
        raise _owed(paths, log.waiting)


def _owed(paths: RunPaths, rows: int) -> DiskError:
    return DiskError(
        f"{rows} rows of {paths.steps} wait in memory for room on the disk",
        "free some space; all is then written by itself",
    )
