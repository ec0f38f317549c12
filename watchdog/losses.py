"""Reading `run/steps.jsonl` for the detector of numeric trouble.

The detector lives in this process alone: after the watchdog's death the next one hears the log's tail again, and so finds the same.
It has an offset of its own, for a disk too full for metrics.csv, or for the log itself
(`contract/steplog.py`), must not hide a NaN.
"""

from collections.abc import Callable
from pathlib import Path

from adam.contract.config import Numeric
from adam.contract.steplog import rows_in
from adam.watchdog.detect import PAST, Detector, Trouble

ROW_BYTES = 512  # more than a row takes


class Losses:
    """Hears each row once. `rules` may give others later: the tail is then heard again under the new ones."""

    def __init__(self, steps: Path, rules: Callable[[], Numeric], copy: Path | None = None) -> None:
        self._steps, self._rules, self._copy = steps, rules, copy
        self._detector: Detector | None = None
        self._offset = self._copy_offset = 0
        self._newest = (0, 0)

    def trouble(self) -> Trouble | None:
        """What is wrong with the numbers of the newest attempt in the log; None: nothing, or nobody wants to know."""
        rules = self._rules()
        if not rules.rollbacks:
            return None
        try:
            size = self._steps.stat().st_size
        except FileNotFoundError:
            return None
        if self._detector is None or self._detector.rules != rules or size < self._offset:
            self._detector, self._offset = Detector(rules), tail_offset(self._steps, size, tail_rows(rules))
            self._copy_offset, self._newest = 0, (0, 0)
        if size > self._offset:
            self._offset = self._hear(self._detector, self._steps, self._offset)
        self._hear_copy(self._detector)
        return self._detector.trouble

    def _hear_copy(self, detector: Detector) -> None:
        """The rows that wait in memory for room on the disk: they come into the log later, and are known by then."""
        if self._copy is None:
            return
        try:
            size = self._copy.stat().st_size
        except FileNotFoundError:
            size = 0
        if size < self._copy_offset:
            self._copy_offset = 0  # another one
        if size > self._copy_offset:
            self._copy_offset = self._hear(detector, self._copy, self._copy_offset)

    def _hear(self, detector: Detector, log: Path, offset: int) -> int:
        """The rows of `log` from `offset` on that are newer than any before; the offset behind them. Damaged ones are told by others."""
        for end, row in rows_in(log, offset):
            if row is not None and (row.attempt, row.step) > self._newest:
                detector.hear(row)
                self._newest = row.attempt, row.step
            offset = end
        return offset


def tail_rows(rules: Numeric) -> int:
    """Rows that are enough to judge the next one as if all had been heard."""
    return max(2 * PAST, 2 * rules.stagnation_steps)


def tail_offset(steps: Path, size: int, rows: int) -> int:
    """Where the first whole line begins of the last `rows` lines, or of more."""
    start = size - rows * ROW_BYTES
    if start <= 0:
        return 0
    with steps.open("rb") as file:
        file.seek(start - 1)
        file.readline()
        return file.tell()
