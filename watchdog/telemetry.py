"""`metrics.csv`: the trainer's log of steps joined with telemetry, a row a line as soon as it is there.

The key of a row is (attempt, step); in `steps.jsonl` keys only grow. So after the watchdog's own death it goes on behind the
last row's key, and rows that were logged while no watchdog looked, or had to wait for the disk, have empty telemetry cells.
"""

from collections.abc import Callable
from pathlib import Path

from adam.contract.config_file import load_config
from adam.contract.durable import LineAppender, last_line, log_lines, mend_tail, whole_lines
from adam.contract.errors import AdamError
from adam.contract.metrics import COLUMNS, Work, columns_of, header, row
from adam.contract.mfu import FLOPS_PER_PARAMETER
from adam.contract.model import parameter_count, resolved
from adam.contract.paths import RunPaths
from adam.contract.records import Numerics, StepRow
from adam.contract.shards import load_tokens
from adam.contract.steplog import RowKey, key_of, rows_in
from adam.watchdog.widen import columns_with, move_aside, widen

LATE_S = 10.0  # a row that is older has waited for the disk
MOST_AT_ONCE = 2000  # rows in one turn of the loop


class Telemetry:
    """Joins and appends. `trouble` says why rows wait; empty: none does. `alive` is called now and then in what takes long.

    `damaged` says which line of the log can't be read and has no row, the newest of them; empty: none was met.
    """

    def __init__(self, paths: RunPaths, alive: Callable[[], None] = lambda: None) -> None:
        self._alive = alive
        self._steps, self._metrics = paths.steps, paths.metrics
        self._columns: tuple[str, ...] = COLUMNS
        self._file: LineAppender | None = None
        self._offset = 0
        self._last = (0, 0)
        self._fresh_from = -1  # offset behind which rows were logged before our eyes
        self.trouble = self.damaged = ""
        self.newest: StepRow | None = None
        self.news = ""  # what was done to a file of another Adam

    def join(self, cells: dict[str, str], now: float, work: Work, numerics: Numerics | None = None) -> int:
        """Append the rows of the steps that were logged since; how many. A disk that does not take them is tried again.

        `cells` are of `now`, in seconds of CLOCK_BOOTTIME: a row that had to wait is of another time, and gets none.
        `work` and `numerics` are as of `metrics.row`.
        """
        try:
            size = self._steps.stat().st_size
        except FileNotFoundError:
            return 0
        try:
            if self._file is None:
                self._open(size)
            return self._append(size, cells, now, work, numerics)
        except OSError as error:
            self.trouble = f"{self._metrics.name} can't be written: {error.strerror}"
            return 0

    def _open(self, size: int) -> None:
        """Find where the rows end that are written already; a file of another Adam is brought up to this one's columns first."""
        mend_tail(self._metrics)
        self._columns = self._settle_columns()
        file = LineAppender(self._metrics)
        try:
            if self._metrics.stat().st_size == 0:
                file.append(header())
            self._last = last_key(self._metrics)
            self._offset = offset_behind(self._steps, self._last)
        except OSError:
            file.close()
            raise
        self._fresh_from = size
        self._file = file

    def _settle_columns(self) -> tuple[str, ...]:
        """The columns that the file has now: all of ours."""
        first = next((line for _, line in whole_lines(self._metrics)), b"")
        if not first:
            return COLUMNS
        there = columns_of(first)
        columns = columns_with(there)
        if columns is None:
            self.news = f"metrics.csv was none of Adam's: it is now {move_aside(self._metrics)}, and made again"
        elif columns != there:
            widen(self._metrics, columns, self._alive)
            self.news = "metrics.csv was of an older Adam: its rows are now under all columns"
        return columns or COLUMNS

    def _append(self, size: int, cells: dict[str, str], now: float, work: Work, numerics: Numerics | None) -> int:
        if size < self._offset:
            self._offset = 0  # cut or replaced: what is in it may be new all the same, its key tells
        if size == self._offset or self._file is None:
            return 0
        count = 0
        for offset, step in rows_in(self._steps, self._offset):
            if step is None:
                self.damaged = f"the line of {self._steps} that ends at byte {offset} can't be read: {self._metrics.name} lacks its row"
            elif (key := (step.attempt, step.step)) > self._last:
                fresh = offset > self._fresh_from and now - step.boottime < LATE_S
                self._file.append(row(step, work, cells if fresh else {}, numerics, self._columns))
                self._last, self.newest = key, step
                count += 1
            self._offset = offset
            if count == MOST_AT_ONCE:
                break
        self.trouble = ""
        return count


def work_of(paths: RunPaths) -> Work:
    """What an update of the run is; how many operations, where the size of the vocabulary is known."""
    config = load_config(paths.lock)
    tokens = config.trainer.batch_size * config.trainer.seq_len
    try:
        known = load_tokens(paths)
        if known is None and not config.model.vocab_size:
            return Work(tokens, config.trainer.seq_len)
        parameters = parameter_count(resolved(config.model, known.vocab_size if known else 0))
    except (AdamError, ValueError):
        return Work(tokens, config.trainer.seq_len)  # the trainer says what is wrong with them
    return Work(tokens, config.trainer.seq_len, float(FLOPS_PER_PARAMETER * parameters * tokens))


def last_key(metrics: Path) -> tuple[int, int]:
    """(attempt, step) of the last whole row; (0, 0) where there is none."""
    cells = (last_line(metrics, _has_key) or b"").split(b",")
    return (int(cells[1]), int(cells[2])) if len(cells) > 2 else (0, 0)


def _has_key(row: bytes) -> bool:
    """False for the header too, and for a row that a disk has damaged."""
    cells = row.split(b",")
    return len(cells) > 2 and cells[1].isdigit() and cells[2].isdigit()


def offset_behind(steps: Path, key: tuple[int, int]) -> int:
    """The offset in `steps` behind the last line whose key is not above `key`."""
    behind, last = 0, RowKey(*key)
    for offset, line in log_lines(steps):
        found = key_of(line)
        if found is not None and found > last:
            break
        behind = offset if found is not None else behind
    return behind
