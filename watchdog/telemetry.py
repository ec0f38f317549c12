"""`metrics.csv`: the trainer's log of steps joined with telemetry, a row a line as soon as it is there.

The key of a row is (attempt, step); in `steps.jsonl` keys only grow. So after the watchdog's own death it goes on behind the
last row's key, and rows that were logged while no watchdog looked, or had to wait for the disk, have empty telemetry cells.
"""

from pathlib import Path

import msgspec

from adam.contract.durable import LineAppender, last_line, log_lines
from adam.contract.metrics import header, row
from adam.contract.paths import RunPaths
from adam.contract.records import StepRow, decode_step

LATE_S = 10.0  # a row that is older has waited for the disk
MOST_AT_ONCE = 2000  # rows in one turn of the loop


class _Key(msgspec.Struct):
    attempt: int
    step: int


class Telemetry:
    """Joins and appends. `trouble` says why rows wait; empty: none does."""

    def __init__(self, paths: RunPaths, tokens_per_step: int) -> None:
        self._steps, self._metrics = paths.steps, paths.metrics
        self._tokens_per_step = tokens_per_step
        self._file: LineAppender | None = None
        self._offset = 0
        self._last = (0, 0)
        self._fresh_from = -1  # offset behind which rows were logged before our eyes
        self.trouble = ""
        self.newest: StepRow | None = None
        self.moved_aside: Path | None = None

    def join(self, cells: dict[str, str], now: float) -> int:
        """Append the rows of the steps that were logged since; how many. A disk that does not take them is tried again.

        `cells` are of `now`, in seconds of CLOCK_BOOTTIME: a row that had to wait is of another time, and gets none.
        """
        try:
            size = self._steps.stat().st_size
        except FileNotFoundError:
            return 0
        try:
            if self._file is None:
                self._open(size)
            return self._append(size, cells, now)
        except OSError as error:
            self.trouble = f"{self._metrics.name} can't be written: {error.strerror}"
            return 0

    def _open(self, size: int) -> None:
        """Find where the rows end that are written already; a file with other columns is moved aside and made again."""
        file = LineAppender(self._metrics)
        with self._metrics.open("rb") as lines:
            first = lines.readline().rstrip(b"\n")
        if first and first != header():
            file.close()
            self._move_aside()
            file, first = LineAppender(self._metrics), b""
        if not first:
            file.append(header())
        self._last = last_key(self._metrics)
        self._offset = offset_behind(self._steps, self._last)
        self._fresh_from = size
        self._file = file  # last: where any of this fails, it is all done again

    def _move_aside(self) -> None:
        number = 1
        while (target := self._metrics.with_name(f"metrics-old-{number}.csv")).exists():
            number += 1
        self._metrics.rename(target)
        self.moved_aside = target

    def _append(self, size: int, cells: dict[str, str], now: float) -> int:
        if size < self._offset:
            self._offset = 0  # cut or replaced: what is in it may be new all the same, its key tells
        if size == self._offset or self._file is None:
            return 0
        count = 0
        for offset, line in log_lines(self._steps, self._offset):
            step = decode_step(line, self._steps)
            key = (step.attempt, step.step)
            if key > self._last:
                fresh = offset > self._fresh_from and now - step.boottime < LATE_S
                self._file.append(row(step, self._tokens_per_step, cells if fresh else {}))
                self._last, self.newest = key, step
                count += 1
            self._offset = offset
            if count == MOST_AT_ONCE:
                break
        self.trouble = ""
        return count


def last_key(metrics: Path) -> tuple[int, int]:
    """(attempt, step) of the last whole row; (0, 0) where there is none."""
    cells = (last_line(metrics) or b"").split(b",")
    if len(cells) < 3 or not cells[2].isdigit():
        return 0, 0
    return int(cells[1]), int(cells[2])


def offset_behind(steps: Path, key: tuple[int, int]) -> int:
    """The offset in `steps` behind the last line whose key is not above `key`."""
    behind = 0
    decoder = msgspec.json.Decoder(_Key)
    for offset, line in log_lines(steps):
        found = decoder.decode(line)
        if (found.attempt, found.step) > key:
            break
        behind = offset
    return behind
