"""metrics.csv: each step once, in order, whatever happens to the file, its writer, or the disk."""

import csv
import os
from pathlib import Path

import pytest

from adam.contract.metrics import COLUMNS, Work, header
from adam.contract.records import StepRow, encode_line
from adam.watchdog.telemetry import LATE_S, Telemetry, last_key, offset_behind

WORK = Work(tokens=64, seq_len=16, flops=6e3)


def step_row(attempt: int, step: int, **fields) -> bytes:
    row = StepRow(
        attempt=attempt, step=step, tokens=step * 64, first_sample=step, end_sample=step + 1, loss=0.1 + step,
        grad_norm=None, lr=1e-3, step_s=0.5, data_wait_s=0.0, wall=1.0, boottime=1.0, **fields,
    )  # fmt: skip
    return encode_line(row) + b"\n"


def log(paths, *keys: tuple[int, int]) -> None:
    with paths.steps.open("ab") as file:
        for attempt, step in keys:
            file.write(step_row(attempt, step))


def rows(paths) -> list[dict[str, str]]:
    with paths.metrics.open(newline="") as file:
        return list(csv.DictReader(file))


def keys(paths) -> list[tuple[int, int]]:
    return [(int(row["attempt"]), int(row["step"])) for row in rows(paths)]


def test_joins_steps_and_telemetry(paths):
    telemetry = Telemetry(paths)
    log(paths, (1, 1))
    telemetry.join(
        {"phase": "training", "cpu_percent": "9.0"}, 1.0, WORK
    )  # logged before we looked: nobody knows what it was then
    log(paths, (1, 2))
    with paths.steps.open("ab") as file:
        file.write(step_row(1, 3)[:-20])  # torn
    telemetry.join({"phase": "training", "cpu_percent": "7.0"}, 1.0, WORK)
    assert keys(paths) == [(1, 1), (1, 2)]
    first, second = rows(paths)
    assert tuple(first) == COLUMNS and first["cpu_percent"] == "" and second["cpu_percent"] == "7.0"
    assert second["tokens_per_sec"] == "128.0" and second["grad_norm"] == "nan" and float(second["loss"]) == 2.1


def test_a_row_that_waited_for_the_disk_has_no_cells_of_another_time(paths):
    telemetry = Telemetry(paths)
    log(paths, (1, 1))
    telemetry.join({}, 1.0, WORK)
    log(paths, (1, 2))
    telemetry.join({"cpu_percent": "7.0"}, 1.0 + LATE_S, WORK)
    log(paths, (1, 3))
    telemetry.join({"cpu_percent": "8.0"}, 2.0, WORK)
    assert [row["cpu_percent"] for row in rows(paths)] == ["", "", "8.0"]


def test_a_disk_that_is_full_at_the_start_costs_no_header(paths, monkeypatch):
    log(paths, (1, 1))
    telemetry = Telemetry(paths)
    with monkeypatch.context() as full, Path("/dev/full").open("wb") as target:
        real = os.write
        full.setattr(os, "write", lambda fd, data: real(target.fileno(), data))
        assert telemetry.join({}, 1.0, WORK) == 0 and "No space left" in telemetry.trouble
    log(paths, (1, 2))
    assert telemetry.join({}, 1.0, WORK) == 2 and keys(paths) == [(1, 1), (1, 2)]


def test_goes_on_behind_its_last_row_after_its_own_death(paths):
    log(paths, (1, 1), (1, 2), (1, 3))
    Telemetry(paths).join({}, 1.0, WORK)
    with paths.metrics.open("ab") as file:
        file.write(b"2026-01-01T00:00:00Z,1,4,2")  # torn by a power cut
    log(paths, (1, 4), (2, 3), (2, 4))
    again = Telemetry(paths)
    again.join({}, 1.0, WORK)
    log(paths, (2, 5))
    again.join({}, 1.0, WORK)
    assert keys(paths) == [(1, 1), (1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (2, 5)]


def test_steps_that_a_power_cut_took_away(paths):
    log(paths, (1, 1), (1, 2), (1, 3))
    telemetry = Telemetry(paths)
    telemetry.join({}, 1.0, WORK)
    os.truncate(paths.steps, len(step_row(1, 1)))
    telemetry.join({}, 1.0, WORK)
    log(paths, (2, 2), (2, 3))
    telemetry.join({}, 1.0, WORK)
    Telemetry(paths).join({}, 1.0, WORK)
    assert keys(paths) == [(1, 1), (1, 2), (1, 3), (2, 2), (2, 3)]


def test_a_file_that_is_none_of_ours_is_kept_and_made_again(paths):
    paths.metrics.write_text("day,loss\n1,2.0\n")
    log(paths, (1, 1), (1, 2))
    telemetry = Telemetry(paths)
    telemetry.join({}, 1.0, WORK)
    assert "metrics-old-1.csv" in telemetry.news
    assert paths.metrics.with_name("metrics-old-1.csv").read_text() == "day,loss\n1,2.0\n"
    assert paths.metrics.read_bytes().startswith(header()) and keys(paths) == [(1, 1), (1, 2)]


def test_a_full_disk_is_waited_out(paths, monkeypatch):
    telemetry = Telemetry(paths)
    log(paths, (1, 1))
    telemetry.join({}, 1.0, WORK)
    log(paths, (1, 2), (1, 3))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    assert telemetry.join({}, 1.0, WORK) == 0 and "No space left" in telemetry.trouble
    monkeypatch.undo()
    assert telemetry.join({}, 1.0, WORK) == 2 and not telemetry.trouble
    assert keys(paths) == [(1, 1), (1, 2), (1, 3)]


def test_many_rows_do_not_hold_the_loop(paths, monkeypatch):
    monkeypatch.setattr("adam.watchdog.telemetry.MOST_AT_ONCE", 10)
    log(paths, *((1, step) for step in range(1, 26)))
    telemetry = Telemetry(paths)
    assert [telemetry.join({}, 1.0, WORK) for _ in range(4)] == [10, 10, 5, 0]


@pytest.mark.parametrize("key", [(0, 0), (1, 2), (1, 9), (2, 1), (9, 9)])
def test_offset_behind_any_key(paths, key):
    present = [(1, 1), (1, 2), (1, 3), (2, 2), (2, 3)]
    log(paths, *present)
    behind = paths.steps.read_bytes()[: offset_behind(paths.steps, key)]
    assert behind.count(b"\n") == sum(item <= key for item in present)


def test_no_rows_no_key(paths):
    assert last_key(paths.metrics) == (0, 0)
    paths.metrics.write_bytes(header() + b"\n")
    assert last_key(paths.metrics) == (0, 0)


DAMAGED = (b'{"schema":1,"attempt":1,"st\xff', b"nonsense", b"[[[[", b'{"schema":9}', b"")


@pytest.mark.parametrize("line", DAMAGED)
def test_a_damaged_line_of_the_log_is_left_out_and_told(paths, line):
    log(paths, (1, 1))
    with paths.steps.open("ab") as file:
        file.write(line + b"\n")
    log(paths, (1, 2))
    telemetry = Telemetry(paths)
    telemetry.join({}, 1.0, WORK)
    assert keys(paths) == [(1, 1), (1, 2)]
    assert f"{paths.steps} that ends at byte {len(step_row(1, 1)) + len(line) + 1} can't be read" in telemetry.damaged
    log(paths, (1, 3))
    behind = Telemetry(paths)  # another watchdog begins behind it
    behind.join({}, 1.0, WORK)
    assert keys(paths) == [(1, 1), (1, 2), (1, 3)] and not behind.damaged


def test_a_damaged_last_row_is_not_where_the_rows_end(paths):
    log(paths, (1, 1), (1, 2))
    Telemetry(paths).join({}, 1.0, WORK)
    with paths.metrics.open("ab") as file:
        file.write(b"2026-11-22,x,2,garbage\n")
    log(paths, (1, 3))
    Telemetry(paths).join({}, 1.0, WORK)
    assert [row["step"] for row in rows(paths) if row["attempt"] == "1"] == ["1", "2", "3"]
