"""Calls of launcher and watchdog that fail: each call of each kind, once and until the disk is well again.

The launcher says how its program truly ended, whatever failed; the watchdog goes on, and what it could not write is written later.
"""

import csv
import errno
import io
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from failing_disk import FailingDisk, through_all

from adam.contract import schema
from adam.contract.clock import boottime_ns
from adam.contract.errors import run_main
from adam.contract.lease import lease_is_held, take_lease
from adam.contract.metrics import Work
from adam.contract.paths import RunPaths
from adam.contract.records import ExitReport, Lease, Plan, Status, StepRow, encode_line
from adam.contract.shared import Control
from adam.contract.states import Exit, RunState
from adam.watchdog import launcher
from adam.watchdog.act import Hands
from adam.watchdog.journal import Journal
from adam.watchdog.log import logger_to
from adam.watchdog.policy_words import Launch
from adam.watchdog.status_file import Remembered, StatusFile
from adam.watchdog.telemetry import Telemetry

ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
KINDS = ("create", "write", "fsync", "rename", "mkdir", "unlink", "allocate")
FAULTS = list(itertools.product(KINDS, (False, True)))
EVERY = pytest.mark.parametrize(
    ("kind", "for_ever"), FAULTS, ids=[f"{k} {'until' if e else 'once'}" for k, e in FAULTS]
)
PROGRAM = "import sys; print('its last word', flush=True); sys.exit(7)"


@pytest.fixture
def signals() -> Iterator[None]:
    """A launcher ends with its signals ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def directories(root: Path) -> RunPaths:
    paths = RunPaths(root)
    paths.run.mkdir(parents=True)
    return paths


@EVERY
def test_the_launcher_tells_the_true_end(tmp_path, monkeypatch, capfd, signals, kind: str, for_ever: bool) -> None:
    """Also where it could not start the program, or not say in the lease who it is. Space returns while it tries again."""
    told = []

    def use(disk: FailingDisk) -> None:
        disk.works = True
        paths = directories(disk.root)
        schema.save(paths.plan, Plan(program="trainer", attempt=3, token=7))
        pauses = itertools.count()

        def sleep(_: float) -> None:
            disk.works = disk.works or next(pauses) == 2

        held: list[int] = []

        def take(*arguments: Any) -> tuple[int, Lease]:
            taken = take_lease(*arguments)
            held.append(taken[0])
            return taken

        monkeypatch.setattr(launcher, "take_lease", take)
        monkeypatch.setattr(launcher.time, "sleep", sleep)
        capfd.readouterr()
        disk.calls, disk.works = 0, False
        command = [sys.executable, "-S", "-c", PROGRAM]
        code = run_main("launcher", lambda: launcher.Launcher(paths, "trainer", command).run() or 0)
        disk.works = True
        for fd in held:  # as the end of its process would
            os.close(fd)
        assert not lease_is_held(paths)
        report = schema.load(paths.exit_report("trainer"), ExitReport)
        if report is None:  # nothing was started: supervisord and the watchdog see that, and its log says why
            said = capfd.readouterr().err
            assert code == Exit.DISK and os.strerror(disk.error) in said and str(disk.root) in said
        elif report.code == Exit.DISK:
            assert code == 0 and "lease can't be written: " + os.strerror(disk.error) in report.tail[-1]
        else:
            log = paths.log("trainer").exists()
            words = "its last word" if log else os.strerror(disk.error)
            assert (code, report.code, report.signal) == (0, 7, None) and words in report.tail[-1]
        told.append(None if report is None else report.code)

    def make(at: int) -> FailingDisk:
        return FailingDisk(tmp_path / f"run-{at}", (), kind, at, ERRORS[at % 3], for_ever=for_ever)

    calls = through_all(make, use)
    assert calls >= {"create": 3, "write": 3, "fsync": 2, "rename": 1, "mkdir": 1, "allocate": 2}.get(kind, 0)
    assert told[-1] == 7 and set(told) <= {None, Exit.DISK, 7} and told.count(None) <= 1
    assert (Exit.DISK in told) == (kind == "write")  # into the lease


class StandInSupervisor:
    def start(self, program: str) -> None:
        assert program == "trainer"


class Writers:
    """All that a watchdog writes itself."""

    def __init__(self, paths: RunPaths) -> None:
        self.paths = paths
        self.journal = Journal(paths.events, logger_to(io.StringIO()))
        self.telemetry = Telemetry(paths)
        self.status = StatusFile(paths)
        self.hands = Hands(paths, StandInSupervisor(), None, self.journal, None, None)  # type: ignore[arg-type]
        self.turns = 0

    def turn(self) -> bool:
        """One turn of the loop, with something to write for everybody. True where nothing failed."""
        self.turns += 1
        now = boottime_ns() / 1e9
        self.journal.tell("waiting", f"turn {self.turns}")
        row = StepRow(
            attempt=1, step=self.turns, tokens=1, first_sample=0, end_sample=1, loss=1.0, grad_norm=1.0, lr=1.0, step_s=1.0,
            data_wait_s=0.0, wall=time.time(), boottime=now,
        )  # fmt: skip
        with self.paths.steps.open("ab") as file:  # by the trainer, whose calls are not those that fail
            file.write(encode_line(row) + b"\n")
        self.hands.say(Control(token=self.turns))
        self.telemetry.join({"cpu_percent": str(self.turns)}, now, Work(64, 16))
        self.hands.do(Launch(Plan(program="trainer", attempt=self.turns, token=self.turns)), now)
        troubles = [self.journal.trouble, self.telemetry.trouble, self.hands.trouble, self.hands.launch_error]
        notes = tuple(trouble for trouble in troubles if trouble)
        self.status.write(RunState.TRAINING, f"turn {self.turns}", 1, Remembered(), now, notes=notes)
        self.status.settle(20)
        return not notes and not self.status.trouble

    def check(self) -> None:
        """Everything is there, once and in order."""
        wanted = [str(number + 1) for number in range(self.turns)]
        assert [json.loads(line)["text"] for line in self.paths.events.read_text().splitlines()] == [
            f"turn {n}" for n in wanted
        ]
        with self.paths.metrics.open(newline="") as file:
            assert [row["step"] for row in csv.DictReader(file)] == wanted
        status, plan = schema.load(self.paths.status, Status), schema.load(self.paths.plan, Plan)
        assert status is not None and plan is not None
        assert (status.reason, status.notes, plan.attempt) == (f"turn {self.turns}", (), self.turns)


@EVERY
def test_the_watchdog_writes_later_what_it_could_not_write(tmp_path, kind: str, for_ever: bool) -> None:
    failed = []

    def use(disk: FailingDisk) -> None:
        disk.works = True
        writers = Writers(directories(disk.root))
        disk.calls, disk.works = 0, False
        went_well = [writers.turn() for _ in range(4)]
        disk.works = True
        failed.append(not all(went_well))
        assert writers.turn()
        writers.check()

    def make(at: int) -> FailingDisk:
        return FailingDisk(tmp_path / f"run-{at}", (), kind, at, ERRORS[at % 3], for_ever=for_ever)

    calls = through_all(make, use)
    assert calls >= {"mkdir": 0, "unlink": 0, "allocate": 1}.get(kind, 8)
    assert any(failed) or kind in ("mkdir", "unlink")
