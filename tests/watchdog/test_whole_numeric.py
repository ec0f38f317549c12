"""Numeric and memory trouble in real processes: found, gone back from, left out, and the losses are those of a run without these data."""

import json
import os
import signal

import pytest

from adam.contract import schema
from adam.contract.checkpoints import list_checkpoints, verify
from adam.contract.records import BackendReport, Plan
from adam.contract.states import RunState

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def numeric(box):
    """Checkpoints that are kept long enough to be gone back to."""
    box.checkpoint |= {"keep_last": 20}
    box.numeric = {"healthy_steps": 30}
    return box


def skip_of(box) -> tuple[tuple[int, int], ...]:
    plan = schema.load(box.paths.plan, Plan)
    assert plan is not None
    return plan.skip


def put_away(box) -> set[int]:
    return {int(path.name[5:13]) for path in box.paths.quarantine.iterdir()} if box.paths.quarantine.exists() else set()


def test_a_nan_is_left_out_and_the_run_finishes(numeric):
    numeric.configure("--data 120:nan", step_ms=8)
    numeric.up()
    status = numeric.await_state(RunState.FINISHED)
    # Step 121 failed: back to step 90 or before, without its data and those of the update before.
    assert skip_of(numeric) == ((119, 121),)
    assert status.attempt == 2 and put_away(numeric) <= {100, 120}  # as many of them as the disk was fast enough for
    crashed = numeric.events("crashed")
    assert [item["facts"]["failure"] for item in crashed] == ["numeric"]
    assert crashed[0]["facts"]["code"] == 7 and "fake trainer: step 121: loss nan" in crashed[0]["text"]
    assert numeric.events("started")[1]["facts"]["step"] <= 90
    numeric.check_losses(200, skip=((119, 121),))


def test_a_spike_is_found_ended_and_gone_back_from(numeric):
    numeric.configure("--data 120:spike", step_ms=15)
    numeric.up()
    numeric.await_state(RunState.FINISHED)
    (told,) = numeric.events("numeric")
    assert told["facts"]["trouble"] == "spike" and (told["facts"]["step"], told["facts"]["found"]) == (121, 123)
    (skip,) = skip_of(numeric)
    assert skip[0] == 119 and skip[1] == 123
    assert numeric.events("crashed")[0]["facts"]["signal"] == "SIGKILL"
    numeric.check_losses(200, skip=(skip,))
    for path in list_checkpoints(numeric.paths.checkpoints):
        verify(path)
        weights = next(path.glob("rank-*")).read_bytes()[-32:]
        assert not weights.startswith(numeric.fake.SPOILT)


def test_losses_are_those_of_a_run_that_was_told_to_leave_the_data_out_at_once(numeric, fake):
    """The fake trainer's own chain says what an undisturbed run under the same plan gives; skips stay in force over kills."""
    numeric.configure("--data 60:nan", "150:signal=9@2", "180:exit=1@3", step_ms=8)
    numeric.up()
    status = numeric.await_state(RunState.FINISHED)
    assert status.attempt == 4
    numeric.check_losses(200, skip=skip_of(numeric))
    assert fake.losses(200, skip_of(numeric)) != fake.losses(200)


def test_trouble_that_skipping_does_not_heal_ends_with_a_report(numeric):
    numeric.configure(*(f"--data {position}:nan" for position in range(120, 160)), step_ms=8)
    numeric.up()
    status = numeric.await_state(RunState.FAILED)
    assert status.reason.startswith(
        "numeric trouble 3 times at the same place: loss or gradient not finite at step 121"
    )
    assert status.reason.count("without the data at") == 2
    assert len(numeric.events("crashed")) == 3
    assert max(int(name[5:13]) for name in numeric.names()) <= 90  # what is left is from before


def test_a_watchdog_that_is_killed_finds_the_spike_all_the_same(numeric, await_):
    numeric.configure("--data 120:spike", step_ms=60)  # so the next watchdog is there before the run has ended
    numeric.up()
    numeric.await_step(110)
    first = numeric.status().watchdog_pid
    os.kill(first, signal.SIGKILL)
    numeric.await_state(RunState.FINISHED)
    assert numeric.status().watchdog_pid != first
    assert [item["facts"]["step"] for item in numeric.events("numeric")] == [121]
    numeric.check_losses(200, skip=skip_of(numeric))


def test_stagnation_is_saved_and_ends_with_the_reason(numeric):
    numeric.numeric |= {"stagnation_steps": 300, "spike_rise": 0.0}
    numeric.trainer["steps"] = 100_000
    numeric.configure(step_ms=3)
    numeric.up()
    status = numeric.await_state(RunState.FAILED, seconds=60)
    assert "stagnation from step" in status.reason and "no better in" in status.reason
    last = int(numeric.rows()[-1]["step"])
    assert status.checkpoint.step == last and status.attempt == 1


def test_out_of_memory_takes_a_smaller_micro_batch_and_says_that_the_numbers_differ(box):
    box.trainer |= {"batch_size": 8, "micro_batch": 8}
    box.configure("--fits 2")
    box.up()
    status = box.await_state(RunState.FINISHED)
    plan = schema.load(box.paths.plan, Plan)
    assert plan is not None and plan.micro_batch == 2
    assert [item["facts"]["failure"] for item in box.events("crashed")] == ["memory", "memory"]
    assert status.breaks == ("step 0: micro_batch 8 -> 4", "step 0: micro_batch 4 -> 2")
    assert len(box.events("numerics_changed")) == 2
    box.check_losses(200)


def test_a_slower_backend_is_an_event_and_a_note(box, await_):
    failed = ("native: selective_scan, bf16, 16 states: KernelError: launching scan_forward: CUDA_ERROR_LAUNCH_FAILED",)
    box.trainer["steps"] = 100_000
    box.configure()
    schema.save(box.paths.backend_report, BackendReport(attempt=1, name="torch", failed=failed))
    box.up()
    await_(lambda: box.events("backend_failed"), 20, "the event")
    (event,) = box.events("backend_failed")
    assert "torch computes" in event["text"] and failed[0] in event["text"]
    await_(lambda: any(failed[0] in note for note in box.status().notes), 20, "the note")
    schema.save(box.paths.backend_report, BackendReport(attempt=2, name="native"))
    await_(lambda: box.events("backend"), 20, "the other event")
    await_(lambda: not box.status().notes, 20, "no note any more")
    assert len(box.events("backend_failed")) == 1


def test_memory_that_never_suffices_ends_with_the_reason(box):
    box.trainer |= {"batch_size": 4, "micro_batch": 4}
    box.configure("--fits 0")
    box.up()
    status = box.await_state(RunState.FAILED)
    assert "out of memory with 1 samples at once" in status.reason and "computing one sample at once" in status.reason
    memory = json.loads(box.paths.status.read_text())["memory"]["policy"]
    assert memory["changes"]["micro_batch"] == 1
