"""The whole watchdog over files of the run that a disk has damaged: none ends a watchdog, nor each new one."""

import os
import signal

import pytest

from adam.contract.lease import read_lease
from adam.contract.process import alive, start_ticks
from adam.contract.states import RunState

pytestmark = pytest.mark.timeout(150)

DAMAGED = b'{"schema": 1, "attempt": \xff'


def damage_log(box) -> None:
    with box.paths.steps.open("ab", buffering=0) as file:
        file.write(DAMAGED + b"\n")


def next_watchdog(box, await_) -> int:
    """Kill the watchdog; the pid of the one that follows, behind several of its looks."""
    first = box.status().watchdog_pid
    os.kill(first, signal.SIGKILL)
    await_(lambda: box.status().watchdog_pid != first, 30)
    second, seen = box.status().watchdog_pid, box.status().stamp.boottime
    await_(lambda: box.status().stamp.boottime > seen + 1.5, 30)
    assert box.status().watchdog_pid == second
    return second


def test_a_damaged_line_of_the_log_is_left_out_and_told(box, await_):
    box.configure(step_ms=60)
    box.up()
    box.await_step(30)
    first = box.status().watchdog_pid
    damage_log(box)
    await_(lambda: any("steps.jsonl" in note and "can't be read" in note for note in box.status().notes), 10)
    assert box.status().watchdog_pid == first
    box.await_step(60)
    next_watchdog(box, await_)
    status = box.await_state(RunState.FINISHED)
    assert status.attempt == 1 and len(box.events("steps_damaged")) == 1
    box.check_losses(200)


def test_a_damaged_last_line_of_the_log_ends_no_new_watchdog(box, await_):
    box.configure(step_ms=60)
    box.up()
    box.await_step(30)
    box.want(pauses=("human",))
    box.await_state(RunState.PAUSED)
    damage_log(box)
    next_watchdog(box, await_)
    box.want()
    status = box.await_state(RunState.FINISHED)
    assert status.attempt == 1
    box.check_losses(200)


def training(box) -> tuple[int, int | None, int]:
    """(pid, start ticks, token) of a trainer that has begun."""
    box.configure(step_ms=60)
    box.up()
    box.await_step(30)
    trainer = box.trainer_pid()
    return trainer, start_ticks(trainer), read_lease(box.paths).token


def test_a_damaged_plan_ends_no_new_watchdog(box, await_):
    trainer, ticks, token = training(box)
    box.paths.plan.write_bytes(DAMAGED)
    second = next_watchdog(box, await_)
    assert any(str(box.paths.plan) in note for note in box.status().notes)
    assert alive(trainer, ticks)
    os.kill(trainer, signal.SIGKILL)
    await_(lambda: read_lease(box.paths).token > token, 20)
    await_(lambda: not box.status().notes, 10)
    assert box.status().watchdog_pid == second
    box.await_state(RunState.FINISHED)
    box.check_losses(200)


def test_without_a_wish_that_can_be_read_a_living_program_goes_on_and_nothing_is_started(box, await_):
    trainer, ticks, token = training(box)
    box.paths.desired.write_bytes(DAMAGED)
    second = next_watchdog(box, await_)
    step = int(box.rows()[-1]["step"])
    box.await_step(step + 10)
    assert alive(trainer, ticks) and box.state() == RunState.TRAINING
    assert any(str(box.paths.desired) in note for note in box.status().notes)
    os.kill(trainer, signal.SIGKILL)
    status = box.await_state(RunState.WAITING)
    assert "what is wanted can't be read" in status.reason
    next_watchdog(box, await_)
    assert box.state() == RunState.WAITING and read_lease(box.paths).token == token
    assert box.status().watchdog_pid != second
    box.want()
    box.await_state(RunState.FINISHED)
    assert not box.status().notes
    box.check_losses(200)
