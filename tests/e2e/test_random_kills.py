"""Whoever is killed, whenever: the losses and the last state are bit for bit those of a run that was left alone.

The real trainer with validation, pauses, snapshots in memory and checkpoints on disk. Trainer, template, keeper, watchdog and launcher are
killed at random microseconds, within saves, validation, loading and pauses; now and then everything at once, memory included, as by a power
cut. And what else happens to a run: its memory is deleted under a living trainer, its keeper stands still, its directory is copied and
started.
One kill of each kind in the ordinary run; `bin/test --campaign -s tests/e2e/test_random_kills.py` does 200.
"""

import itertools
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from real_run import CONFIG, RealRun, newest_logged, wait_for

from adam.contract import schema
from adam.contract.checkpoints import list_checkpoints, verify
from adam.contract.durable import log_lines
from adam.contract.process import state_letter
from adam.contract.records import Plan, decode_step
from adam.contract.shared import Pulse, read_once
from adam.contract.states import Phase

INTERVAL = 3  # steps between two snapshots in memory
STEPS_A_KILL = 20
KILLS_CONFIG = CONFIG.replace("every_steps = 20", f"every_steps = 20\nram_every_steps = {INTERVAL}").replace(
    "eval_every = 50", "eval_every = 16"
)


class Havoc:
    """Kills parts of a run, and knows which attempts ended with their memory lost."""

    def __init__(self, run: RealRun, seed: int) -> None:
        self.run, self.chance = run, random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.copies: set[int] = set()  # trainers that were a template's copy
        self.forgotten: set[int] = set()  # attempts that ended with everything else
        self.kinds: list[tuple[Callable[[], None], int]] = [
            (self.trainer, 40),
            (self.trainer_in_a_save, 20),
            (self.trainer_validating, 10),
            (self.trainer_loading, 10),
            (self.trainer_paused, 6),
            (self.keeper_in_a_commit, 10),
            (self.launcher, 5),
            (self.copy, 10),
            (self.template, 6),
            (self.template_frozen, 3),
            (self.watchdog, 5),
            (self.everything, 5),
            (self.memory_deleted, 6),
            (self.keeper_frozen, 4),
            (self.copied, 2),
        ]

    def any_one(self) -> None:
        kinds, weights = zip(*self.kinds, strict=True)
        self.one(self.chance.choices(kinds, weights)[0])

    def one(self, kind: Callable[[], None]) -> None:
        kind()
        self.counts[kind.__name__] += 1

    def pulse(self) -> Pulse:
        return read_once(self.run.paths.pulse("0"), Pulse) or Pulse()

    def logged(self) -> int:
        return newest_logged(self.run.paths)

    def until(self, what: str, condition: Callable[[], Any]) -> Any:
        """As `wait_for`, without a pause between two looks: a phase may last a millisecond."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if found := condition():
                return found
        raise AssertionError(f"not within 60 s: {what}\n{self.run.logs()}")

    def living_trainer(self) -> int:
        pid = wait_for("a trainer", lambda: (p := self.run.trainer_pid()) and state_letter(p) not in (None, "Z") and p)
        with suppress(FileNotFoundError, ProcessLookupError):
            if b"--template" in Path(f"/proc/{pid}/cmdline").read_bytes():
                self.copies.add(pid)
        return pid

    def attempt(self) -> int:
        """The newest that was planned."""
        plan = schema.load(self.run.paths.plan, Plan)
        return plan.attempt if plan is not None else 0

    def at_random(self) -> None:
        time.sleep(self.chance.random() * 0.03)

    def kill(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        wait_for("the kernel has ended it", lambda: state_letter(pid) in (None, "Z"))

    def trainer(self) -> None:
        self.at_random()
        self.kill(self.living_trainer())

    def trainer_in(self, phase: Phase) -> None:
        pid = self.living_trainer()
        self.until(f"{phase.name} by {pid}", lambda: (p := self.pulse()).pid == pid and p.phase == phase)
        time.sleep(self.chance.random() * 0.004)
        self.kill(pid)

    def trainer_in_a_save(self) -> None:
        self.trainer_in(Phase.SAVING)

    def trainer_validating(self) -> None:
        self.trainer_in(Phase.EVALUATING)

    def trainer_loading(self) -> None:
        """Twice in a row: the second one before it has done anything."""
        old = self.living_trainer()
        self.kill(old)
        pid = self.until("the next one", lambda: (p := self.run.trainer_pid()) not in (0, old) and p)
        self.until("its loading", lambda: self.pulse().pid == pid and self.pulse().phase == Phase.LOADING)
        time.sleep(self.chance.random() * 0.05)
        self.kill(pid)

    def trainer_paused(self) -> None:
        self.run.adamctl("pause")
        wait_for("paused", lambda: self.run.state() == "paused")
        self.kill(self.living_trainer())
        self.run.adamctl("resume")

    def keeper_in_a_commit(self) -> None:
        at = self.logged()
        self.until(
            "a checkpoint being written",
            lambda: any(self.run.paths.checkpoints.glob(".tmp-*")) or self.logged() > at + 2 * STEPS_A_KILL,
        )
        if keeper := self.run.pid_of("adam.watchdog.keeper"):
            self.kill(keeper)

    def launcher(self) -> None:
        self.at_random()
        self.kill(
            wait_for("a launcher", lambda: (p := self.run.launcher_pid()) and state_letter(p) not in (None, "Z") and p)
        )

    def a_template(self) -> int:
        """Training stands still until there is one."""
        self.run.adamctl("pause")
        template = wait_for("a template", self.run.template_pid)
        self.run.adamctl("resume")
        return template

    def template(self) -> None:
        """It dies just before or after it is copied."""
        template, trainer = self.a_template(), self.living_trainer()
        self.kill(trainer)
        time.sleep(self.chance.random() * 0.5)
        if state_letter(template) is not None:
            self.kill(template)

    def template_frozen(self) -> None:
        """The launcher asks it in vain for a copy, and has to do without."""
        os.kill(self.a_template(), signal.SIGSTOP)
        self.kill(self.living_trainer())

    def copy(self) -> None:
        """A copy dies at some moment of its first second, and is followed by another."""
        self.a_template()
        for _ in range(2):
            trainer = self.living_trainer()
            self.kill(trainer)
            wait_for("the next one", lambda old=trainer: self.run.trainer_pid() not in (0, old))
            time.sleep(self.chance.random())

    def watchdog(self) -> None:
        self.at_random()
        self.kill(wait_for("a watchdog", lambda: self.run.pid_of("adam.watchdog")))

    def memory_deleted(self) -> None:
        """As logind does, or a person who tidies up; and before there is another snapshot the trainer is killed, now and then."""
        pid = self.living_trainer()
        # By the plan: while a trainer imports torch, the pulse is still that of the attempt before.
        self.forgotten.add(self.attempt())
        shutil.rmtree(self.run.paths.ram, ignore_errors=True)
        time.sleep(self.chance.random() * 0.3)
        if self.chance.random() < 0.5 and state_letter(pid) not in (None, "Z"):
            self.kill(pid)

    def keeper_frozen(self) -> None:
        """Nobody could settle: the watchdog has to end it before the trainer can start again."""
        keeper = wait_for("a keeper", lambda: self.run.pid_of("adam.watchdog.keeper"))
        os.kill(keeper, signal.SIGSTOP)
        self.kill(self.living_trainer())
        wait_for("the frozen keeper has been ended", lambda: state_letter(keeper) in (None, "Z"))

    def copied(self) -> None:
        """The lease and the status of a copied directory name the living processes of another run."""
        pid, ended = self.living_trainer(), len(self.run.events("crashed"))
        copy = RealRun(self.run.paths.root.parent / f"copy-{self.counts['copied']}")
        subprocess.run(["cp", "-a", f"{self.run.paths.root}/.", str(copy.paths.root)], check=False)
        try:
            copy.adamctl("up", expect=None)
            wait_for(
                "the copy trains by itself", lambda: copy.trainer_pid() not in (0, pid) or copy.state() == "finished"
            )
            assert len(self.run.events("crashed")) == ended, "starting a copy ended the original's trainer"
            copy.adamctl("down", expect=None)
        finally:
            copy.end()
            shutil.rmtree(copy.paths.ram, ignore_errors=True)

    def everything(self) -> None:
        """As a power cut, with the disk as it was asked to be."""
        self.at_random()
        self.forgotten.add(self.attempt())
        self.kill(int(self.run.paths.supervisor_pid.read_text()))
        wait_for("nobody outlives supervisord", lambda: not self.run.processes(), 5)
        shutil.rmtree(self.run.paths.ram, ignore_errors=True)
        self.run.up_hasty()


def undisturbed(new_run: Callable[..., RealRun], steps: int) -> RealRun:
    run = new_run("undisturbed", steps=steps, config=KILLS_CONFIG)
    run.adamctl("up", "--wait", timeout=1800)
    return run


def lost_steps(run: RealRun) -> dict[int, int]:
    """By attempt: how many logged steps its successor had to do again."""
    last: dict[int, int] = {}
    for _, line in log_lines(run.paths.steps):
        row = decode_step(line, run.paths.steps)
        last[row.attempt] = row.step
    begun = {event["facts"]["attempt"]: event["facts"]["step"] for event in started(run)}
    attempts = sorted(begun)
    return {
        before: max(last.get(before, 0), begun[before]) - begun[after] for before, after in itertools.pairwise(attempts)
    }


def started(run: RealRun) -> list[dict[str, Any]]:
    return [event for event in run.events("started") if event["facts"].get("program") == "trainer"]


def check(run: RealRun, other: RealRun, havoc: Havoc, steps: int) -> None:
    assert run.wait_final(600) == "finished", run.logs()
    assert [step for step, _ in run.losses()] == list(range(1, steps + 1))
    assert run.losses() == other.losses()
    assert run.validations() == other.validations() and run.validations()
    assert run.final_state() == other.final_state()
    ranges = [(int(row["first_sample"]), int(row["end_sample"])) for _, row in sorted(run.counting_rows().items())]
    assert ranges[0][0] == 0 and all(before[1] == after[0] for before, after in itertools.pairwise(ranges))
    assert not run.events("quarantined") and not any(run.paths.quarantine.glob("*"))
    for checkpoint in list_checkpoints(run.paths.checkpoints):
        verify(checkpoint)
    lost = lost_steps(run)
    most = {attempt: n for attempt, n in lost.items() if attempt not in havoc.forgotten and n > INTERVAL}
    assert not most, (
        most,
        [event for event in started(run) if event["facts"]["attempt"] in {*most, *(n + 1 for n in most)}],
    )
    assert run.processes() == []
    print(
        f"\n{sum(havoc.counts.values())} disturbances {dict(havoc.counts)}: "
        f"{len(started(run))} attempts, at least {len(havoc.copies)} of them copies, "
        f"{len(run.rows())} rows for {steps} steps; (steps done again, attempts): {sorted(Counter(lost.values()).items())}; "
        f"last state {run.final_state()[:16]}"
    )


def torment(run: RealRun, havoc: Havoc, kills: int, steps: int) -> None:
    run.up_hasty()
    order = [kind for kind, _ in havoc.kinds] if kills < 2 * len(havoc.kinds) else []
    for number in range(kills):
        target = number * steps // kills + havoc.chance.randrange(STEPS_A_KILL // 2)
        try:
            wait_for(f"step {target}", lambda least=target: havoc.logged() >= least, 120)
        except AssertionError as error:
            raise AssertionError(f"{error} behind {dict(havoc.counts)}\n{run.logs()}") from None
        if number < len(order):
            havoc.one(order[number])
        else:
            havoc.any_one()


def kill_and_compare(new_run: Callable[..., RealRun], kills: int, seed: int) -> None:
    steps = kills * STEPS_A_KILL + STEPS_A_KILL
    other = undisturbed(new_run, steps)
    run = new_run(steps=steps, config=KILLS_CONFIG)
    havoc = Havoc(run, seed)
    torment(run, havoc, kills, steps - STEPS_A_KILL)
    check(run, other, havoc, steps)


@pytest.mark.timeout(900)
def test_a_kill_of_every_kind_changes_no_bit(new_run) -> None:
    kill_and_compare(new_run, 15, seed=5)


@pytest.mark.campaign
@pytest.mark.timeout(7200)
def test_two_hundred_kills_change_no_bit(new_run) -> None:
    seed = int.from_bytes(os.urandom(4))
    print(f"\nseed {seed}")
    kill_and_compare(new_run, 200, seed)
