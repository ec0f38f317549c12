"""A disk that fills up under a real run: training goes on, also through a kill, and all is on disk when there is room again."""

import os
import signal
import time
from collections.abc import Iterator

import pytest
from fault_table import Row, record
from real_run import RealRun, wait_for
from small_disk import SmallDisk, small_disk

from adam.contract.checkpoints import list_checkpoints
from adam.contract.shared import Pulse, read_once

STEPS = 300


@pytest.fixture
def disk(tmp_path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", 64) as disk:
        yield disk


def pulse(run: RealRun) -> Pulse:
    return read_once(run.paths.pulse("0"), Pulse) or Pulse()


def filled_until(disk: SmallDisk, what: str, look) -> None:
    """Until `look` says yes, with every byte taken again that somebody lets go of."""

    def full() -> bool:
        disk.fill()
        return bool(look())

    wait_for(what, full, 60)


def test_a_full_disk_costs_no_attempt_and_no_row(disk, new_run) -> None:
    undisturbed = new_run("undisturbed", steps=STEPS)
    undisturbed.adamctl("up", "--wait", timeout=300)
    run = RealRun(disk.root / "run", steps=STEPS)
    try:
        run.adamctl("up")
        wait_for("two checkpoints", lambda: len(list_checkpoints(run.paths.checkpoints)) >= 2)
        begun, first = pulse(run).step, pulse(run).attempt  # the forge's was the first of all
        filled_until(disk, "60 steps on a full disk", lambda: pulse(run).step > begun + 60)
        filled_until(
            disk, "the status to say so", lambda: "steps.jsonl can't be written" in run.adamctl("status").stdout
        )
        assert pulse(run).unlogged > 20 and pulse(run).attempt == first and not run.events("crashed")
        check_that_people_are_heard(run, disk)
        disk.free()
        wait_for("all rows to be written", lambda: not pulse(run).unlogged and run.step() >= begun + 60)
        newest = list_checkpoints(run.paths.checkpoints)[-1].name
        wait_for("another checkpoint", lambda: list_checkpoints(run.paths.checkpoints)[-1].name > newest)
        assert run.status()["attempt"] == first and not run.events("crashed")
        go_through_a_kill(run, disk)
        assert run.wait_final() == "finished", run.logs()
        assert run.losses() == undisturbed.losses()
        assert run.final_state() == undisturbed.final_state()
        assert run.status()["attempt"] == first + 1 and len(run.events("crashed")) == 1
        assert run.events("disk_full") and run.events("disk_freed")
        done = "training goes on, through a kill too; all is written as soon as there is room"
        record(Row("the disk is full, and free again later", "no room: rows and checkpoints wait", None, done, None))
    finally:
        run.end()


def check_that_people_are_heard(run: RealRun, disk: SmallDisk) -> None:
    """On the full disk a pause can be asked for and taken back."""
    run.adamctl("pause")
    filled_until(disk, "paused", lambda: run.state() == "paused")
    run.adamctl("resume")
    filled_until(disk, "training", lambda: run.state() == "training")


def go_through_a_kill(run: RealRun, disk: SmallDisk) -> None:
    """Killed while its rows wait: the next attempt begins in memory, on a disk that is still full, and owes what the first one did."""
    filled_until(disk, "rows that wait", lambda: pulse(run).unlogged > 5)
    killed, attempt = run.trainer_pid(), pulse(run).attempt
    os.kill(killed, signal.SIGKILL)
    filled_until(disk, "the next attempt", lambda: pulse(run).attempt == attempt + 1 and pulse(run).unlogged > 5)
    began = time.monotonic()
    assert run.trainer_pid() not in (0, killed)
    disk.free()
    wait_for("all rows to be written", lambda: not pulse(run).unlogged)
    print(f"all rows were written {time.monotonic() - began:.1f} s after there was room")
