"""Whatever happens in whatever order: properties of the policy, over random worlds."""

import signal

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from adam.contract.clock import Stamp
from adam.contract.records import Desired, ExitReport, Gpu
from adam.contract.shared import Pulse
from adam.contract.states import FAILURE_OF_EXIT, Phase
from adam.watchdog.detect import NOT_FINITE, SPIKE, STAGNATION, Trouble
from adam.watchdog.policy import decide
from adam.watchdog.policy_turn import Turn
from adam.watchdog.policy_words import (
    AskSettle,
    Launch,
    LeaseSeen,
    Memory,
    Observation,
    Settings,
    Settled,
    Signal,
    Stage,
)
from adam.watchdog.retention import Kept

SETTINGS = Settings(
    healthy_steps=2,
    steps=100,
    hang_seconds=2.0,
    start_seconds=20.0,
    save_seconds=10.0,
    stop_seconds=5.0,
    backoff_cap_seconds=4.0,
)
STAMP = Stamp(0.0, "boot", 0.0)
# A world that hears a SIGKILL and answers questions lets the policy reach a decision within this time, whatever went before:
# stop_seconds or save_seconds, then the blows, the back-off and the keeper.
ENOUGH_S = 120.0


class World(RuleBasedStateMachine):
    """supervisord, launcher, trainer and keeper, reduced to what the policy sees of them. Nothing in it misleads the policy."""

    @initialize()
    def begin(self) -> None:
        self.now, self.memory, self.seen = 100.0, Memory(), Observation()
        self.running: tuple[int, int] | None = None  # (token, attempt) of the one program that runs
        self.stuck = False  # its process hears SIGKILL only
        self.step = self.progress = 0
        self.saved: tuple[Kept, ...] = ()
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.hung_told = 0
        self.quiet_since = self.now
        self.skipped: tuple[int, ...] = ()  # data positions that were left out once

    def tick(self, seconds: float) -> None:
        self.now += seconds
        decision = decide(SETTINGS, self.memory, self.seen, self.now)
        self.memory = decision.memory
        self.skipped = tuple(start for start, _ in self.memory.changes.skip) if self.memory.changes else ()
        assert decision.wake_at > self.now
        assert not decision.state.final or decision.reason
        for action in decision.actions:
            self.obey(action)

    def obey(self, action: object) -> None:
        match action:
            case Launch(plan):
                if plan.token not in self.starts:
                    assert self.running is None, "a twin"
                    assert len(self.starts) == len(self.ends), "two starts without an exit between"
                    self.starts.append(plan.token)
                    self.start(plan)
            case AskSettle():
                assert self.running is None, "settling beside a living program"
                if action.beyond >= 0:
                    self.saved = tuple(kept for kept in self.saved if kept.step <= action.beyond)
                self.seen = replace(self.seen, settled=Settled(id=action.id, checkpoints=self.saved))
            case Signal(_, _, number, _):
                if number == signal.SIGKILL or (number == signal.SIGTERM and not self.stuck):
                    self.end(None, number)

    def start(self, plan) -> None:
        assert plan.resume is None or plan.resume.step in {kept.step for kept in self.saved}
        assert set(self.skipped) <= {position for start, end in plan.skip for position in range(start, end)}
        trouble = self.seen.trouble
        if (
            trouble is not None
            and trouble.kind != STAGNATION
            and plan.resume is not None
            and trouble.attempt == plan.attempt - 1
        ):
            assert plan.resume.step < trouble.step, "from after the trouble"
        self.running, self.stuck = (plan.token, plan.attempt), False
        self.step = plan.resume.step if plan.resume else 0
        lease = LeaseSeen(
            program=plan.program, attempt=plan.attempt, token=plan.token, launcher_pid=1, launcher_ticks=1,
            child_pid=2, child_ticks=2, launcher_alive=True, child_alive=True,
        )  # fmt: skip
        self.seen = replace(self.seen, lease=lease)

    def end(self, code: int | None, number: int | None, told: bool = True) -> None:
        if self.running is None:
            return
        token, attempt = self.running
        report = ExitReport(
            program=self.seen.lease.program, attempt=attempt, token=token, pid=2, code=code, signal=number, core=False,
            oom_killed=False, max_rss_bytes=0, cpu_s=0.0, started=STAMP, ended=STAMP, tail=("last words",),
        )  # fmt: skip
        self.ends.append(token)
        self.running = None
        lease = replace(self.seen.lease, launcher_alive=False, child_alive=False)
        self.seen = replace(self.seen, lease=lease, exit=report if told else self.seen.exit)

    @rule(seconds=st.sampled_from([0.01, 0.25, 0.25, 0.25, 1.0, 30.0, 5000.0]))
    def time_passes(self, seconds: float) -> None:
        self.tick(seconds)

    @precondition(lambda self: self.running and not self.stuck)
    @rule(
        phase=st.sampled_from([Phase.LOADING, Phase.TRAINING, Phase.TRAINING, Phase.SAVING, Phase.PAUSED]),
        steps=st.integers(0, 5),
    )
    def moves(self, phase: Phase, steps: int) -> None:
        self.progress += 1
        self.step += steps if phase == Phase.TRAINING else 0
        if phase == Phase.SAVING and self.step not in {kept.step for kept in self.saved}:
            self.saved = (*self.saved, Kept(f"step-{self.step}", self.step, self.running[1], True))
        pulse = Pulse(token=self.running[0], step=self.step, phase=phase, progress=self.progress)
        self.seen = replace(self.seen, pulse=pulse, checkpoints=self.saved)
        self.tick(0.25)

    @precondition(lambda self: self.running)
    @rule()
    def gets_stuck(self) -> None:
        self.stuck = True

    @precondition(lambda self: self.running)
    @rule(code=st.sampled_from([0, 10, 77, *FAILURE_OF_EXIT]))
    def exits(self, code: int) -> None:
        self.end(code, None)

    @precondition(lambda self: self.running)
    @rule(told=st.booleans())
    def is_killed(self, told: bool) -> None:
        self.end(None, 9, told)

    @precondition(lambda self: self.running)
    @rule(back=st.integers(0, 3), kind=st.sampled_from([NOT_FINITE, SPIKE, STAGNATION]))
    def numbers_go_wrong(self, back: int, kind: str) -> None:
        self.step += 2
        step = max(1, self.step - back)
        found = Trouble(
            kind=kind, attempt=self.running[1], step=step, found=self.step, first_sample=step - 1, end_sample=self.step,
            before=max(0, step - 2), loss=None, usual=None,
        )  # fmt: skip
        if self.step not in {kept.step for kept in self.saved}:  # what is wrong was saved
            self.saved = (*self.saved, Kept(f"step-{self.step}", self.step, self.running[1], True))
        self.seen = replace(self.seen, trouble=found, checkpoints=self.saved)

    @rule(running=st.booleans(), pauses=st.sampled_from([(), ("human",)]))
    def people_want(self, running: bool, pauses: tuple[str, ...]) -> None:
        self.seen = replace(
            self.seen, desired=Desired(running=running, pauses=pauses, stamp=Stamp(self.now, "boot", self.now))
        )

    @rule(fault=st.sampled_from(["", "lost", "mismatch"]), sensors=st.sampled_from(["ok", "unknown"]))
    def the_gpu_changes(self, fault: str, sensors: str) -> None:
        sensors = "unknown" if fault else sensors
        gpus = (Gpu(0),) if sensors == "ok" else ()
        self.seen = replace(self.seen, trained_on="cuda H200", gpu_fault=fault, sensors=sensors, gpus=gpus)

    @rule()
    def the_watchdog_dies(self) -> None:
        from adam.watchdog.policy import restored

        self.memory = restored(self.memory, self.now, same_boot=True)

    @invariant()
    def waits_are_bounded(self) -> None:
        assert self.memory.not_before <= self.now + SETTINGS.backoff_cap_seconds

    @rule()
    def there_is_a_way_out(self) -> None:
        """Left alone with a GPU, every stage reaches a running program or a final state; asked to stop, it always stops."""
        if self.seen.desired.running:
            self.the_gpu_changes("", "ok")
        memory, seen, now, running = self.memory, self.seen, self.now, self.running
        stopping = not seen.desired.running
        for _ in range(int(ENOUGH_S / 0.5)):
            self.tick(0.5)
            if self.memory.stage == Stage.DONE or (not stopping and self.running and not self.stuck):
                break
        else:
            raise AssertionError(f"no way out of {memory.stage} at {now} with {running}: {seen}")


TestWorld = World.TestCase
TestWorld.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.integers(1, 10_000), st.integers(0, 2**63 - 1), st.floats(0.01, 10), st.floats(10, 1000))
def test_the_wait_grows_to_its_cap_and_has_jitter(failures, seed, base, cap):
    chosen = replace(SETTINGS, seed=seed, backoff_seconds=base, backoff_cap_seconds=cap)
    turn = Turn(chosen, Memory(), Observation(), 0.0)
    full = min(cap, base * 2.0 ** min(failures - 1, 60))
    assert full / 2 <= turn.backoff_s(failures) <= full
    assert turn.backoff_s(failures) == turn.backoff_s(failures)


@given(
    st.lists(st.floats(0.01, 1e6), min_size=1, max_size=60),
    st.sampled_from([Phase.TRAINING, Phase.PAUSED, Phase.SAVING]),
)
def test_no_false_hang_while_every_look_sees_progress(gaps, phase):
    lease = LeaseSeen(
        program="trainer", attempt=1, token=1, launcher_pid=1, launcher_ticks=1, child_pid=2, child_ticks=2,
        launcher_alive=True, child_alive=True,
    )  # fmt: skip
    memory, now = Memory(), 0.0
    for progress, gap in enumerate(gaps):
        now += gap
        pulse = Pulse(token=1, step=progress, phase=phase, progress=progress + 1)
        memory = decide(SETTINGS, memory, Observation(lease=lease, pulse=pulse), now).memory
        assert memory.hang is None
