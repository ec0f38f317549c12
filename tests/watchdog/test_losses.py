"""The log of steps as the detector hears it: each row once, from the tail on where a new watchdog begins."""

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loss_series import rows

from adam.contract.config import Numeric
from adam.contract.durable import LineAppender
from adam.contract.records import StepRow, encode_line
from adam.watchdog import losses as module
from adam.watchdog.losses import Losses, tail_offset


def write(paths, series: list[StepRow]) -> None:
    file = LineAppender(paths.steps)
    for row in series:
        file.append(encode_line(row))
    file.close()


def spiked(steps: int = 400, at: int = 300) -> list[StepRow]:
    losses = 3.0 + np.random.default_rng(0).normal(0, 0.05, steps)
    losses[at - 1 :] += 5.0
    return list(rows(losses))


def test_each_row_is_heard_once(paths, monkeypatch):
    heard = []
    monkeypatch.setattr(module.Detector, "hear", lambda self, row: heard.append(row.step))
    losses = Losses(paths.steps, Numeric)
    assert losses.trouble() is None  # there is no log yet
    series = spiked()
    for begin in (0, 100, 101):
        write(paths, series[begin : {0: 100, 100: 101, 101: 400}[begin]])
        losses.trouble()
        losses.trouble()
    assert heard == list(range(1, 401))


def test_a_torn_line_is_heard_when_it_is_whole(paths):
    series = spiked(310)
    write(paths, series[:-1])
    line = encode_line(msgspec.structs.replace(series[-1], loss=None))
    losses = Losses(paths.steps, lambda: Numeric(spike_rise=0))
    with paths.steps.open("ab") as file:
        file.write(line[:50])
        file.flush()
        assert losses.trouble() is None
        file.write(line[50:] + b"\n")
    assert losses.trouble().step == 310


def test_rows_that_wait_in_memory_are_heard_and_not_again_from_the_disk(paths, tmp_path, monkeypatch):
    heard = []
    monkeypatch.setattr(module.Detector, "hear", lambda self, row: heard.append(row.step))
    series, copy = spiked(), tmp_path / "copy"
    losses = Losses(paths.steps, Numeric, copy)
    write(paths, series[:100])
    losses.trouble()
    for begin, end in ((100, 120), (120, 130)):
        file = LineAppender(copy)
        for row in series[begin:end]:
            file.append(encode_line(row))
        file.close()
        losses.trouble()
    write(paths, series[100:140])
    losses.trouble()
    copy.unlink()
    losses.trouble()
    file = LineAppender(copy)  # another one, as long as the first
    for row in series[140:150]:
        file.append(encode_line(row))
    losses.trouble()
    assert heard == list(range(1, 151))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 399), max_size=4))
def test_a_new_watchdog_finds_the_same(paths, deaths):
    paths.steps.unlink(missing_ok=True)
    series, written = spiked(), 0
    losses = Losses(paths.steps, Numeric)
    for death in sorted(deaths):
        write(paths, series[written:death])
        written = max(written, death)
        losses.trouble()
        losses = Losses(paths.steps, Numeric)
    write(paths, series[written:])
    found = losses.trouble()
    assert found is not None and (found.kind, found.step, found.found) == ("spike", 300, 308)


def test_only_the_tail_of_a_long_log_is_read(paths, monkeypatch):
    monkeypatch.setattr(module, "ROW_BYTES", 1)
    series = [*rows(np.full(5000, 3.0)), *rows(np.full(50, 9.0), after=5000)]
    write(paths, series)
    size = paths.steps.stat().st_size
    offset = tail_offset(paths.steps, size, 2048)
    assert size - 2048 <= offset < size - 2048 + 400
    assert paths.steps.read_bytes()[offset - 1 : offset + 1] == b"\n{"
    monkeypatch.setattr(module, "ROW_BYTES", 100)
    assert Losses(paths.steps, Numeric).trouble().step == 5001


def test_a_log_that_was_cut_is_read_again(paths):
    write(paths, spiked())
    losses = Losses(paths.steps, Numeric)
    assert losses.trouble() is not None
    paths.steps.unlink()
    write(paths, spiked(200, at=201))
    assert losses.trouble() is None


def test_other_rules_judge_the_tail_anew(paths):
    write(paths, spiked())
    rules = [Numeric(spike_rise=0)]
    losses = Losses(paths.steps, lambda: rules[0])
    assert losses.trouble() is None
    rules[0] = Numeric()
    assert losses.trouble() is not None
    rules[0] = Numeric(rollbacks=0)
    assert losses.trouble() is None


@pytest.mark.parametrize("offset", [0, 1])
def test_a_short_log_is_read_from_its_beginning(paths, offset):
    write(paths, spiked()[: 3 + offset])
    assert tail_offset(paths.steps, paths.steps.stat().st_size, 2048) == 0


def test_a_damaged_row_is_left_out(paths):
    series = spiked()
    write(paths, series[:350])
    with paths.steps.open("ab") as file:
        file.write(b'{"schema":1,"att\xff\n')
    losses = Losses(paths.steps, Numeric)
    assert losses.trouble().step == 300
    write(paths, series[350:])
    assert losses.trouble().step == 300
