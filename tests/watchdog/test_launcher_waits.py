"""A launcher that has a template: it stays for the next plan, and ends when it is asked to, whatever becomes of its program."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from adam.contract import schema
from adam.contract.lease import launcher_waits, lease_is_held, processes_of, read_lease
from adam.contract.process import state_letter
from adam.contract.records import ExitReport, Plan

LIGHT = Path(__file__).parents[1] / "faults" / "light_launcher.py"


class Box:
    """One launcher, and the plans that are written for it."""

    def __init__(self, paths) -> None:
        self.paths, self.token = paths, 0
        self.plan()
        with paths.log("launcher").open("ab") as log:
            command = [sys.executable, "-P", str(LIGHT), "--run", str(paths.root), "trainer"]
            environment = {**os.environ, "ADAM_SUPERVISED": str(paths.root)}
            self.process = subprocess.Popen(command, stderr=log, env=environment)

    def plan(self, program: str = "trainer", **fields: object) -> None:
        self.token += 1
        schema.save(self.paths.plan, Plan(program=program, attempt=self.token, token=self.token, **fields))

    def words(self) -> list[str]:
        log = self.paths.log("trainer")
        return log.read_text().splitlines() if log.exists() else []

    def child(self) -> int:
        lease = read_lease(self.paths)
        return lease.child_pid if lease is not None and lease.token == self.token else 0

    def template(self) -> int:
        return next(
            (
                pid
                for pid in map(
                    int, Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
                )
                if Path(f"/proc/{pid}/comm").read_text() == "adam-template\n"
            ),
            0,
        )


@pytest.fixture
def box(paths, await_: Callable) -> Iterator[Box]:
    box = Box(paths)
    await_(lambda: box.words() == ["fresh 1"] and box.template(), 20)
    yield box
    box.process.kill()
    box.process.wait()


def kill_child(box: Box, await_: Callable) -> int:
    pid = box.child()
    os.kill(pid, signal.SIGKILL)
    await_(lambda: launcher_waits(box.paths, read_lease(box.paths)) or box.process.poll() is not None, 10)
    return pid


def test_the_next_plan_is_carried_out_by_a_copy_again_and_again(box, await_):
    descriptors = None
    for number in range(2, 12):
        dead = kill_child(box, await_)
        report = schema.load(box.paths.exit_report("trainer"), ExitReport)
        assert (report.pid, report.signal, report.token) == (dead, signal.SIGKILL, number - 1)
        assert not lease_is_held(box.paths) and read_lease(box.paths).launcher_pid == 0
        box.plan()
        await_(lambda n=number: box.words()[-1] == f"copy {n}", 10)
        open_now = len(os.listdir(f"/proc/{box.process.pid}/fd")), len(os.listdir(f"/proc/{box.template()}/fd"))
        descriptors = descriptors or open_now
        assert open_now == descriptors, "a descriptor more with each copy"
        assert box.child() in processes_of(box.paths, number)
        assert box.process.pid not in processes_of(box.paths, number)


def test_a_plan_that_asks_for_a_fresh_program_gets_one(box, await_):
    kill_child(box, await_)
    template = box.template()
    box.plan(fresh=True)
    await_(lambda: box.words()[-1] == "fresh 2", 10)
    assert state_letter(template) in (None, "Z")
    await_(box.template, 10)
    kill_child(box, await_)
    box.plan()
    await_(lambda: box.words()[-1] == "copy 3", 10)


def test_plans_for_others_are_left_alone(box, await_):
    kill_child(box, await_)
    box.plan(program="forge")
    with pytest.raises(AssertionError, match="not within"):
        await_(lambda: len(box.words()) > 1, 1)
    box.plan()
    await_(lambda: box.words()[-1] == "copy 3", 10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_it_waits_ends_it(box, await_, number):
    kill_child(box, await_)
    template = box.template()
    box.process.send_signal(number)
    assert box.process.wait(10) == 0
    await_(lambda: state_letter(template) in (None, "Z"), 5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_that_the_program_did_not_heed_is_not_forgotten(box, await_, number):
    box.process.send_signal(number)
    await_(lambda: box.words()[-1] == f"asked {int(number)}", 10)
    box.plan()
    os.kill(read_lease(box.paths).child_pid, signal.SIGKILL)
    assert box.process.wait(10) == 0
    assert box.words() == ["fresh 1", f"asked {int(number)}"]


def test_a_launcher_killed_while_it_waits_takes_its_template_along(box, await_):
    kill_child(box, await_)
    template = box.template()
    box.process.kill()
    await_(lambda: state_letter(template) in (None, "Z"), 5)
    box.process.wait()
    assert not launcher_waits(box.paths, read_lease(box.paths))
