"""metrics.csv of another Adam gets all columns: each row is kept, at whatever moment the watchdog dies or the disk is full."""

import errno
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from disk_calls import DiskCalls
from failing_disk import FailingDisk
from metric_rows import WORK, line, write_rows

from adam.contract.metrics import COLUMNS, columns_of, header
from adam.contract.records import StepRow, encode_line
from adam.watchdog import widen as widening
from adam.watchdog.rows import Rows
from adam.watchdog.telemetry import Telemetry, last_key
from adam.watchdog.widen import columns_with, widen

OLD = ("timestamp", "attempt", "step", "tokens", "loss", "phase")
OLD_ROWS = [f"2026-01-01T00:00:0{step}Z,1,{step},{64 * step},{5 - step / 10!r},training" for step in range(1, 6)]
OLD_FILE = "\n".join([",".join(OLD), *OLD_ROWS]) + "\n"


def log(path: Path, *keys: tuple[int, int]) -> None:
    with path.open("ab") as file:
        for attempt, step in keys:
            row = StepRow(
                attempt=attempt, step=step, tokens=step, first_sample=0, end_sample=1, loss=1.0, grad_norm=1.0, lr=1.0,
                step_s=1.0, data_wait_s=0.0, wall=1.0, boottime=1.0,
            )  # fmt: skip
            file.write(encode_line(row) + b"\n")


def check(paths, *more: tuple[int, int]) -> None:
    """All of ours in their order, the old rows with their cells, each key once."""
    rows = Rows(paths.metrics).read(100)
    assert columns_of(paths.metrics.read_bytes().splitlines()[0])[: len(COLUMNS)] == COLUMNS
    assert [row.key for row in rows] == [(1, step) for step in range(1, 6)] + list(more)
    old = [dict(zip(OLD, item.split(","), strict=True)) for item in OLD_ROWS]
    assert [row.cells for row in rows[:5]] == old


def test_an_older_file_gets_the_columns_that_it_lacks(paths, monkeypatch) -> None:
    paths.metrics.write_text(OLD_FILE + "2026-01-01T00:00:06Z,1,6")  # and a torn row
    log(paths.steps, *((1, step) for step in range(1, 8)))
    beats = []
    monkeypatch.setattr(widening, "BLOCK_ROWS", 2)
    telemetry = Telemetry(paths, lambda: beats.append(1))
    assert telemetry.join({}, 1.0, WORK) == 2 and "under all columns" in telemetry.news
    assert len(beats) == 3, "of what takes long the supervisor hears in between"
    check(paths, (1, 6), (1, 7))
    assert not [path.name for path in paths.root.iterdir() if "old" in path.name or path.name.endswith("tmp")]
    again = Telemetry(paths)
    assert again.join({}, 1.0, WORK) == 0 and not again.news


def test_columns_that_only_a_newer_adam_knows_are_kept(paths) -> None:
    columns = (*COLUMNS[:5], "future", *COLUMNS[6:])
    cells = [f"{number}" for number in range(len(columns))]
    paths.metrics.write_text(",".join(columns) + "\n" + ",".join(cells) + "\n")
    log(paths.steps, (9, 9))
    telemetry = Telemetry(paths)
    telemetry.join({}, 1.0, WORK)
    first, second = Rows(paths.metrics).read(10)
    assert first.cells == dict(zip(columns, cells, strict=True)) and second.key == (9, 9)
    assert columns_of(paths.metrics.read_bytes().splitlines()[0]) == (*COLUMNS, "future")
    assert columns_with(("day", "loss")) is None and columns_with(COLUMNS) == COLUMNS


def test_whoever_follows_the_old_file_is_told(paths) -> None:
    paths.metrics.write_text(OLD_FILE)
    command = ["tail", "-n", "+1", "-f", str(paths.metrics)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tail:
        assert tail.stdout is not None
        try:
            assert "".join(tail.stdout.readline() for _ in range(1 + len(OLD_ROWS))) == OLD_FILE
            widen(paths.metrics, COLUMNS)
            assert tail.stdout.readline() == widening.FAREWELL.decode()
        finally:
            tail.kill()


def test_a_sink_reads_on_behind_it_and_nothing_twice(paths) -> None:
    paths.metrics.write_text(OLD_FILE)
    rows = Rows(paths.metrics)
    assert len(rows.read(3)) == 3
    widen(paths.metrics, COLUMNS)
    assert [row.key for row in rows.read(100)] == [(1, 4), (1, 5)]
    with paths.metrics.open("ab") as file:
        file.write(line(2, 4))
    assert [row.key for row in rows.read(100)] == [(2, 4)]


class Killed(BaseException):
    """The watchdog dies at this call."""


@pytest.mark.parametrize("death", [Killed(), OSError(28, "No space left on device")], ids=["killed", "disk full"])
def test_whatever_call_is_the_last_no_row_is_lost(paths, monkeypatch, death) -> None:
    monkeypatch.setattr(widening, "BLOCK_ROWS", 2)
    number = 0
    while True:
        paths.metrics.write_text(OLD_FILE)
        paths.steps.unlink(missing_ok=True)
        log(paths.steps, *((1, step) for step in range(1, 7)))
        with Failing(paths.root, number, death) as failing, suppress(Killed):
            Telemetry(paths).join({}, 1.0, WORK)
        assert set(OLD_ROWS) <= {row.rstrip(",") for row in old_cells(paths.metrics)}, number
        Telemetry(paths).join({}, 1.0, WORK)
        check(paths, (1, 6))
        assert not list(paths.root.glob(".*.tmp")), number
        if not failing.failed:
            return
        number += 1


def old_cells(path: Path) -> list[str]:
    """The rows, with the old columns alone, whichever file it is."""
    head, *lines = path.read_text().splitlines()
    names = head.split(",")
    found = [dict(zip(names, item.split(","), strict=True)) for item in lines if len(item.split(",")) == len(names)]
    return [",".join(row[name] for name in OLD) for row in found]


class Failing(DiskCalls):
    """The call with this number that changes the run raises, and all that follow do."""

    def __init__(self, root: Path, number: int, death: BaseException) -> None:
        super().__init__(root, ())
        self._left, self._death = number, death
        self.failed = False

    def perform(self, name: str, path: Path, *arguments: Any) -> Any:
        if name != "close":
            if self._left == 0:
                self.failed = True
                raise self._death
            self._left -= 1
        return super().perform(name, path, *arguments)


def widened_on(disk: FailingDisk, path: Path) -> tuple[str, bytes]:
    """(the error, what readers of the old file have read at last)."""
    path.write_text(OLD_FILE)
    with path.open("rb") as old, disk:
        try:
            widen(path, COLUMNS)
            said = ""
        except OSError as error:
            said = str(error.strerror)
        return said, old.read()


def test_an_error_behind_the_rename_leaves_the_new_file_and_old_readers_know(paths) -> None:
    """First the file is made durable, then its name, which is there whether that can be made durable or not."""
    disk = FailingDisk(paths.root, (), "fsync", 1, errno.EIO, for_ever=True)
    said, read = widened_on(disk, paths.metrics)
    assert said == os.strerror(errno.EIO) and read.endswith(widening.FAREWELL)
    assert paths.metrics.read_bytes().splitlines()[0] == header()


def test_a_farewell_for_which_there_is_no_room_is_no_error(paths) -> None:
    disk = FailingDisk(paths.root, (), "write", 1, errno.ENOSPC, for_ever=True)
    assert widened_on(disk, paths.metrics) == ("", OLD_FILE.encode())
    assert paths.metrics.read_bytes().splitlines()[0] == header()


def test_zeros_that_a_power_cut_left_and_all_behind_them_are_made_again(paths) -> None:
    """A row behind the zeros is no sign that the one which they were has been written."""
    whole = OLD_FILE.splitlines(keepends=True)
    paths.metrics.write_text("".join([*whole[:3], "\0" * 30 + "\n", *whole[4:]]))
    log(paths.steps, *((1, step) for step in range(1, 6)))
    assert Telemetry(paths).join({}, 1.0, WORK) == 3
    assert [row.key for row in Rows(paths.metrics).read(10)] == [(1, step) for step in range(1, 6)]


def test_a_disk_without_room_is_not_filled_further(paths, monkeypatch) -> None:
    paths.metrics.write_text(OLD_FILE)
    log(paths.steps, (1, 6))
    monkeypatch.setattr(widening, "free_bytes", lambda _: len(OLD_FILE))
    telemetry = Telemetry(paths)
    assert telemetry.join({}, 1.0, WORK) == 0 and "No space left" in telemetry.trouble
    assert paths.metrics.read_text() == OLD_FILE
    monkeypatch.undo()
    assert telemetry.join({}, 1.0, WORK) == 1 and not telemetry.trouble
    check(paths, (1, 6))


def test_rows_that_the_disk_tore_are_left_out(paths) -> None:
    paths.metrics.write_text(OLD_FILE.replace(OLD_ROWS[2], "2026-01-01T00:00:03Z,1"))
    widen(paths.metrics, COLUMNS)
    assert [row.step for row in Rows(paths.metrics).read(10)] == [1, 2, 4, 5]
    assert last_key(paths.metrics) == (1, 5)
    assert paths.metrics.read_bytes().splitlines()[0] == header()
    write_rows(paths, (1, 6))
    assert len(Rows(paths.metrics).read(10)) == 5
