"""The policy on a bench: what is seen is set by a test, and time passes when it says so."""

from msgspec.structs import replace

from adam.contract.clock import Stamp
from adam.contract.records import ExitReport
from adam.contract.shared import Pulse
from adam.contract.states import Phase, RunState
from adam.watchdog.policy import decide
from adam.watchdog.policy_words import (
    AskSettle,
    Decision,
    Launch,
    LeaseSeen,
    Memory,
    Observation,
    Settings,
    Settled,
    Stage,
    Tell,
)
from adam.watchdog.retention import Kept

SETTINGS = Settings(
    steps=1000, hang_seconds=2.0, start_seconds=30.0, save_seconds=60.0, backoff_seconds=1.0, stop_seconds=20.0
)
STAMP = Stamp(0.0, "boot", 0.0)


def kept(*steps: int, verified: bool = True) -> tuple[Kept, ...]:
    return tuple(Kept(f"step-{step:08d}-a01", step, 1, verified) for step in steps)


class Bench:
    """The policy between two ticks: what is seen is set by the test, time passes when it says so."""

    def __init__(self, settings: Settings = SETTINGS, **seen: object) -> None:
        self.settings, self.memory, self.now = settings, Memory(), 1000.0
        self.seen = Observation(**seen)
        self.actions: list[object] = []
        self.decision: Decision | None = None
        self.progress = 0

    def see(self, **fields: object) -> "Bench":
        self.seen = replace(self.seen, **fields)
        return self

    def tick(self, seconds: float = 0.25) -> list[object]:
        self.now += seconds
        self.decision = decide(self.settings, self.memory, self.seen, self.now)
        self.memory = self.decision.memory
        self.actions += self.decision.actions
        return list(self.decision.actions)

    def of(self, kind: type) -> list:
        return [action for action in self.actions if isinstance(action, kind)]

    def told(self, kind: str) -> list[Tell]:
        return [action for action in self.of(Tell) if action.kind == kind]

    @property
    def state(self) -> RunState:
        assert self.decision is not None
        return self.decision.state

    def settle(self, *checkpoints: Kept, **fields: object) -> None:
        """The keeper answers the question that was asked."""
        ask = self.of(AskSettle)[-1]
        self.see(settled=Settled(id=ask.id, checkpoints=checkpoints, **fields), checkpoints=checkpoints)

    def started(self) -> "Bench":
        """The launcher of the last plan has the lease."""
        plan = self.of(Launch)[-1].plan
        lease = LeaseSeen(
            program=plan.program,
            attempt=plan.attempt,
            token=plan.token,
            launcher_pid=10,
            launcher_ticks=1,
            child_pid=11,
            child_ticks=1,
            launcher_alive=True,
            child_alive=True,
        )
        return self.see(lease=lease)

    def pulse(self, step: int, phase: Phase = Phase.TRAINING, moved: bool = True, **fields: int) -> "Bench":
        self.progress += moved
        token = self.of(Launch)[-1].plan.token
        return self.see(pulse=Pulse(token=token, step=step, phase=phase, progress=self.progress, **fields))

    def ended(self, code: int | None = None, number: int | None = None, **fields: object) -> "Bench":
        plan = self.of(Launch)[-1].plan
        told = ExitReport(
            program=plan.program,
            attempt=plan.attempt,
            token=plan.token,
            pid=11,
            code=code,
            signal=number,
            **{"core": False, "oom_killed": False, "tail": ("the last word",)} | fields,
            max_rss_bytes=0,
            cpu_s=0.0,
            started=STAMP,
            ended=STAMP,
        )
        return self.see(exit=told, lease=replace(self.seen.lease, launcher_alive=False, child_alive=False))

    def run_to_training(self, *checkpoints: Kept, step: int = 0) -> "Bench":
        """From IDLE to a trainer that has done its first micro-steps."""
        for _ in range(400):
            self.tick()
            if self.memory.stage == Stage.SETTLING:
                self.settle(*checkpoints)
            elif self.memory.stage == Stage.STARTING:
                break
            elif self.memory.stage == Stage.DONE:
                raise AssertionError(self.memory.verdict)
        self.started().pulse(step, Phase.LOADING).tick()
        for _ in range(3):
            self.pulse(step).tick()
        assert self.state == RunState.TRAINING
        return self
