"""Years of a run in seconds: the real policy over models of trainer, keeper, disk and machine, driven by events.

While training goes well nothing that the policy could see changes but the step, so time jumps to the next event; in trouble it
goes by the policy's own `wake_at`. One seed replays a world.
"""

import random
import time

import pytest
from msgspec.structs import replace

from adam.contract.clock import Stamp
from adam.contract.records import Desired, ExitReport
from adam.contract.shared import Pulse
from adam.contract.states import Exit, Phase, RunState
from adam.watchdog import policy_failures, policy_pulse, policy_running
from adam.watchdog.policy import decide, restored
from adam.watchdog.policy_words import (
    AskCommit,
    AskSettle,
    Launch,
    LeaseSeen,
    Memory,
    Observation,
    Settings,
    Settled,
    Signal,
    Stage,
    Tell,
)
from adam.watchdog.retention import Kept

HOUR = 3600.0
STEP_S, BOOT_S, SAVE_S, INTERVAL_S, COMMIT_S = 2.0, 20.0, 10.0, 1800.0, 25.0
SETTINGS = Settings(steps=10**9)
FAULTS = ("kill", "hang", "exit", "keeper", "disk", "pause", "sleep", "watchdog")


class World:
    """One box. `faults_a_day` of each kind of FAULTS together."""

    def __init__(self, seed: int, faults_a_day: float) -> None:
        self.chance = random.Random(seed)
        self.rate = faults_a_day / (24 * HOUR)
        self.now, self.memory, self.seen = 0.0, Memory(), Observation()
        self.next_fault = self.chance.expovariate(self.rate)
        self.alive = self.hung = False
        self.done = 0.0  # steps of the present attempt's weights
        self.loading_until = self.saving_until = self.asleep_until = 0.0
        self.next_snapshot = 0.0
        self.snapshots = self.progress = 0
        self.slot_step = 0
        self.checkpoints: tuple[Kept, ...] = (Kept("step-0", 0, 0, True),)
        self.busy_until = self.disk_full_until = self.pause_until = 0.0
        self.question: AskSettle | AskCommit | None = None
        # What is found out about the policy.
        self.decisions = self.faults = self.starts = self.false_hangs = 0
        self.waits_after_progress: list[float] = []
        self.longest_outage = self.down_since = 0.0

    def phase(self) -> Phase:
        if self.now < self.loading_until:
            return Phase.LOADING
        if self.pause_until > self.now:
            return Phase.PAUSED
        return Phase.SAVING if self.saving_until > self.now else Phase.TRAINING

    # ── the world moves ──

    def next_event(self) -> float:
        times = [self.next_fault]
        for at in (self.busy_until, self.disk_full_until, self.pause_until, self.saving_until, self.loading_until):
            if at > self.now:
                times.append(at)
        if self.alive and not self.hung and self.next_snapshot > self.now:
            times.append(self.next_snapshot)
        return min(times)

    def beats(self) -> bool:
        """A save is one long call; and after a sleep the watchdog looks before the trainer has moved."""
        return self.alive and not self.hung and self.phase() != Phase.SAVING and self.now > self.asleep_until

    def steady(self) -> bool:
        return self.beats() and not self.hung and self.memory.stage == Stage.RUNNING and self.memory.listening.trained

    def advance(self, wake_at: float) -> None:
        event = self.next_event()
        # A trainer that steps is looked at often; only the looks in which nothing happens are left out.
        target = max(self.now, event if self.steady() else min(event, wake_at))
        self.go_to(target)
        if self.alive and not self.hung and self.now >= self.next_snapshot and self.phase() == Phase.TRAINING:
            self.snapshot()
        if self.now >= self.next_fault:
            self.next_fault = self.now + self.chance.expovariate(self.rate)
            self.fault(self.chance.choice(FAULTS))

    def go_to(self, target: float) -> None:
        """Time goes to `target`, with nothing in between; steps are done where the trainer trains."""
        if self.alive and not self.hung and self.phase() == Phase.TRAINING:
            self.done += (target - self.now) / STEP_S
        self.now = target

    def snapshot(self) -> None:
        self.slot_step, self.snapshots = int(self.done), self.snapshots + 1
        self.saving_until = self.now + SAVE_S
        self.next_snapshot = self.now + INTERVAL_S

    def fault(self, kind: str) -> None:
        self.faults += 1
        if kind == "disk":
            self.disk_full_until = self.now + self.chance.expovariate(1 / (3 * HOUR))
        elif kind == "keeper":
            self.question, self.busy_until = None, 0.0
        elif kind == "sleep":
            self.now += self.chance.expovariate(1 / HOUR)
            self.asleep_until = self.now
        elif kind == "watchdog":
            self.now += 2.0
            self.memory = restored(self.memory, self.now, same_boot=True)
        elif kind == "pause" and self.alive and not self.hung:
            self.pause_until = self.now + self.chance.expovariate(1 / HOUR)
        elif self.alive and kind == "kill":
            self.end(None, 9)
        elif self.alive and kind == "exit":
            self.end(self.chance.choice([Exit.CODE, Exit.DISK, Exit.NUMERIC, Exit.STOPPED]), None)
        elif self.alive and kind == "hang":
            self.hung = True

    def end(self, code: int | None, number: int | None) -> None:
        if not self.alive:
            return
        self.alive = self.hung = False
        self.down_since = self.now
        lease = self.seen.lease
        assert lease is not None
        stamp = Stamp(0.0, "", 0.0)
        report = ExitReport(
            program="trainer", attempt=lease.attempt, token=lease.token, pid=2, code=code, signal=number, core=False,
            oom_killed=False, max_rss_bytes=0, cpu_s=0.0, started=stamp, ended=stamp, tail=(f"at step {int(self.done)}",),
        )  # fmt: skip
        self.seen = replace(self.seen, lease=replace(lease, launcher_alive=False, child_alive=False), exit=report)

    # ── what the policy sees, and what it does ──

    def look(self) -> Observation:
        lease, pulse = self.seen.lease, self.seen.pulse
        if self.alive and not self.hung and lease is not None:
            self.progress += self.beats()
            pulse = Pulse(
                token=lease.token,
                step=int(self.done),
                phase=self.phase(),
                progress=self.progress,
                snapshots=self.snapshots,
            )
        if self.question is not None and self.now >= self.busy_until:
            self.answer()
        self.seen = replace(
            self.seen,
            desired=Desired(pauses=("human",) if self.pause_until > self.now else ()),
            pulse=pulse,
            checkpoints=self.checkpoints,
            keeper_idle=self.question is None,
        )
        return self.seen

    def answer(self) -> None:
        full = self.disk_full_until > self.now
        fresh = self.slot_step > self.checkpoints[-1].step
        if fresh and not full:
            self.checkpoints = (*self.checkpoints[-2:], Kept(f"step-{self.slot_step}", self.slot_step, 1, True))
        trouble = "no room" if full and fresh else ""
        if isinstance(self.question, AskSettle):
            settled = Settled(id=self.question.id, checkpoints=self.checkpoints, trouble=trouble)
            self.seen = replace(self.seen, settled=settled)
        else:
            self.seen = replace(self.seen, commit_trouble=trouble)
        self.question = None

    def obey(self, action: object) -> None:
        match action:
            case Launch(plan):
                assert not self.alive, "a twin"
                assert plan.resume is not None and plan.resume.step == self.checkpoints[-1].step
                self.starts += 1
                self.alive, self.done = True, float(plan.resume.step)
                self.loading_until = self.now + BOOT_S
                self.next_snapshot = self.loading_until + INTERVAL_S
                self.snapshots, self.slot_step = 0, 0
                lease = LeaseSeen(
                    program="trainer", attempt=plan.attempt, token=plan.token, launcher_pid=1, launcher_ticks=1,
                    child_pid=2, child_ticks=2, launcher_alive=True, child_alive=True,
                )  # fmt: skip
                self.seen = replace(self.seen, lease=lease)
                self.longest_outage = max(self.longest_outage, self.now - self.down_since)
            case AskSettle() | AskCommit():
                self.question, self.busy_until = action, self.now + COMMIT_S
            case Signal(_, _, 9, _) if self.alive:
                self.end(None, 9)
            case Tell("hung"):
                self.false_hangs += not self.hung
            case Tell("crashed") if self.memory.best > self.memory.best_before:
                self.waits_after_progress.append(self.memory.not_before - self.now)

    def run(self, hours: float) -> "World":
        while self.now < hours * HOUR:
            decision = decide(SETTINGS, self.memory, self.look(), self.now)
            self.memory, self.decisions = decision.memory, self.decisions + 1
            assert decision.state not in (RunState.FAILED, RunState.FINISHED, RunState.STOPPED), decision.reason
            for action in decision.actions:
                self.obey(action)
            self.advance(decision.wake_at)
        return self

    def goodput(self) -> float:
        return self.done * STEP_S / self.now


def check(world: World) -> None:
    assert world.false_hangs == 0, "a false hang"
    assert all(wait <= SETTINGS.backoff_seconds for wait in world.waits_after_progress), "a back-off that is not reset"
    assert world.waits_after_progress


@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", range(3))
def test_weeks_without_a_human(seed):
    began = time.process_time()
    world = World(seed, faults_a_day=4.0).run(hours=24 * 100)
    took = time.process_time() - began
    check(world)
    print(f"{world.faults} faults, {world.starts} starts, {world.decisions} decisions, {world.now / HOUR / took:.0f} h/s, "
          f"goodput {world.goodput():.4f}")  # fmt: skip
    assert world.faults > 250 and world.starts > 100
    assert world.now / HOUR / took > 200  # 1,100 to 1,800 on an idle core


def test_a_seed_replays_a_world():
    first, second = World(7, 8.0).run(500), World(7, 8.0).run(500)
    assert (first.done, first.decisions, first.memory) == (second.done, second.decisions, second.memory)


def found(seeds: int = 2) -> str:
    """What the simulation says of the policy as it is patched now; empty: nothing."""
    for seed in range(seeds):
        try:
            check(World(seed, faults_a_day=8.0).run(24 * 30))
        except AssertionError as error:
            return str(error)
    return ""


def test_finds_a_back_off_that_never_resets(monkeypatch):
    assert found() == ""
    monkeypatch.setattr(policy_failures, "progressed", lambda _: False)
    assert found()


def test_finds_a_save_that_counts_as_a_hang(monkeypatch):
    monkeypatch.setattr(policy_pulse, "deadline_s", lambda settings, past: settings.hang_seconds)
    assert "false hang" in found()


def test_finds_that_sleep_counts_as_a_hang(monkeypatch):
    monkeypatch.setattr(policy_pulse, "LONGEST_TICK_S", 1e9)
    assert "false hang" in found()


def test_finds_a_start_beside_a_living_trainer(monkeypatch):
    monkeypatch.setattr("adam.watchdog.policy_turn.Turn.holder", None)
    monkeypatch.setattr(policy_running, "LAUNCHING_S", -1.0)
    monkeypatch.setattr(policy_running, "GONE", {""})
    monkeypatch.setattr(policy_running, "run_or_adopt", lambda turn, lease: None)
    with pytest.raises(AssertionError):
        World(0, 8.0).run(24 * 30)
