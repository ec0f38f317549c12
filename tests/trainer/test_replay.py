"""A micro-step computed twice: when, and what a chip that computes wrong looks like."""

import msgspec
import pytest
import torch
from small_run import make_run, small_config, write_plan

from adam.contract.config import Numeric
from adam.contract.durable import log_lines
from adam.contract.errors import NumericError
from adam.contract.paths import RunPaths
from adam.contract.records import StepRow, decode_step
from adam.contract.snapshots import complete_snapshots
from adam.trainer.attempt import run_attempt
from adam.trainer.loop import Loop
from adam.trainer.ops.reference import ReferenceOps
from adam.trainer.replay import Replay, gradient_sums

ALWAYS = 1e-9  # minutes


def test_a_minute_after_the_start_and_then_as_often_as_configured() -> None:
    now = [100.0]
    replay = Replay(60.0, 7, clock=lambda: now[0])
    assert (replay.due, replay.sound) == (False, 7)
    now[0] += 60
    assert replay.due
    replay.agreed(20)
    assert (replay.due, replay.sound) == (False, 20)
    now[0] += 3599
    assert not replay.due
    now[0] += 1
    assert replay.due
    assert not Replay(0.0, 0, clock=lambda: 1e9).due


def test_one_bit_of_one_gradient_shows() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(2000)), torch.nn.Parameter(torch.zeros(3))]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    share = torch.tensor(1.5)
    before = gradient_sums(share, parameters)
    assert gradient_sums(share, parameters) == before
    gradient = parameters[0].grad
    assert gradient is not None
    gradient.view(torch.int32)[1999] ^= 1
    assert gradient_sums(share, parameters) != before


def run_with(root, minutes: float) -> RunPaths:
    config = msgspec.structs.replace(small_config(steps=4), numeric=Numeric(replay_minutes=minutes))
    paths = make_run(root, config)
    write_plan(paths)
    return paths


def test_computing_twice_changes_no_bit(tmp_path) -> None:
    ends = []
    for name, minutes in (("plain", 0.0), ("twice", ALWAYS)):
        paths = run_with(tmp_path / name, minutes)
        assert run_attempt(paths.root, 1, lambda: False)
        ends.append(complete_snapshots(paths)[0].head.sums)
    assert ends[0] == ends[1]


def test_a_chip_that_computes_wrong_ends_the_attempt_and_says_since_when(tmp_path, monkeypatch) -> None:
    paths = run_with(tmp_path / "run", ALWAYS)
    backward, calls = Loop._backward, []

    def wrong(self: Loop, batch: object) -> torch.Tensor:
        share = backward(self, batch)  # type: ignore[arg-type]
        calls.append(share)
        if len(calls) == 7:  # two micro-steps an update, the first one twice: the third update
            gradient = next(self.model.parameters()).grad
            assert gradient is not None
            gradient.view(-1)[0] += 1e-3
        return share

    monkeypatch.setattr(Loop, "_backward", wrong)
    with pytest.raises(NumericError, match="step 3: a micro-batch that was computed twice came out differently"):
        run_attempt(paths.root, 1, lambda: False)
    rows: list[StepRow] = [decode_step(line, paths.steps) for _, line in log_lines(paths.steps)]
    assert [(row.step, row.sound) for row in rows] == [(1, None), (2, None), (3, 1)]
    assert rows[-1].loss is None


def test_a_backend_that_never_gives_the_same_bits_is_not_asked_twice(tmp_path, monkeypatch) -> None:
    paths = run_with(tmp_path / "run", ALWAYS)
    monkeypatch.setattr(ReferenceOps, "repeatable", False)
    monkeypatch.setattr(Loop, "_twice", lambda *_: pytest.fail("computed twice"))
    assert run_attempt(paths.root, 1, lambda: False)
