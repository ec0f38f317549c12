"""Rows of `metrics.csv` behind a key, as they come: for those who pass them on.

The key (attempt, step) only grows, so it says where a reader stands whatever becomes of the file: cut by a power failure, made again
from `steps.jsonl`, or replaced by one with more columns.
"""

import os
from datetime import datetime
from pathlib import Path

import msgspec

from adam.contract.metrics import cells_of, columns_of

Key = tuple[int, int]


class Row(msgspec.Struct, frozen=True):
    """`cells` are texts by column; empty ones are left out."""

    attempt: int
    step: int
    cells: dict[str, str]

    @property
    def key(self) -> Key:
        return self.attempt, self.step

    @property
    def wall(self) -> float:
        """When it was logged, Unix seconds; 0.0 where that is not known."""
        return datetime.fromisoformat(self.cells["timestamp"]).timestamp() if "timestamp" in self.cells else 0.0

    def number(self, column: str) -> float | None:
        """The number in a cell (NaN where it was not finite); None where there is none, or something else."""
        try:
            return float(self.cells.get(column, ""))
        except ValueError:
            return None


class Rows:
    """Reads on behind `key`, and only whole lines."""

    def __init__(self, path: Path, key: Key = (0, 0)) -> None:
        self._path, self.key = path, key
        self._inode, self._offset = 0, 0
        self._columns: tuple[str, ...] = ()

    def read(self, most: int) -> list[Row]:
        """The next rows, `most` of them at most; none where there are no new ones."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return []
        found: list[Row] = []
        with file:
            status = os.fstat(file.fileno())
            if status.st_ino != self._inode or status.st_size < self._offset:
                self._inode, self._offset = status.st_ino, 0
            file.seek(self._offset)
            while len(found) < most and (line := file.readline()).endswith(b"\n") and b"\0" not in line:
                if self._offset == 0:
                    self._columns = columns_of(line)
                elif (row := self._row(line)) is not None and row.key > self.key:
                    self.key = row.key
                    found.append(row)
                self._offset += len(line)
        return found

    def _row(self, line: bytes) -> Row | None:
        """None for a line that is none of ours."""
        cells = cells_of(line)
        named = {name: cell for name, cell in zip(self._columns, cells, strict=False) if cell}
        attempt, step = named.get("attempt", ""), named.get("step", "")
        if len(cells) != len(self._columns) or not (attempt.isdecimal() and step.isdecimal()):
            return None
        return Row(int(attempt), int(step), named)
