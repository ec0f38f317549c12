"""The trainer as a model: steps, snapshots, numbers that go wrong, and what it hears of the control word."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from sim_box import Box
from sim_numeric import Poison, Spoil, step_of
from sim_program import Program

from adam.contract.checkpoints import checkpoint_name
from adam.contract.records import Plan
from adam.contract.shared import Control, Pulse
from adam.contract.states import Exit, Phase
from adam.watchdog.detect import NOT_FINITE


@dataclass(frozen=True)
class Snapshot:
    step: int
    attempt: int
    token: int
    durable: bool
    saves: int = 0
    spoil: Spoil | None = None

    @property
    def name(self) -> str:
        return checkpoint_name(self.step, self.attempt)


class Trainer(Program):
    """One attempt. `load_s`: that its beginning takes; `trickles`: by reading a disk, byte by byte; `spoil`: of what it begins from."""

    def __init__(
        self, plan: Plan, now: float, box: Box, end: Callable[[int], None], *, load_s: float, trickles: bool,
        readable: bool, spoil: Spoil | None,
    ) -> None:  # fmt: skip
        super().__init__(plan, now, box, end)
        self._load_s, self._trickles, self._readable, self.spoil = load_s, trickles, readable, spoil
        self.base = plan.resume.step if plan.resume else 0
        self.done = float(self.base)
        self.drained_at = math.inf
        self._saving: Snapshot | None = None
        self.durable: Snapshot | None = None
        self.complete = 0  # durable snapshots
        self.answered = Control()
        self._code, self._told = Exit.STOPPED, False
        self.marks: dict[str, tuple[int, Callable[[], None]]] = {}  # what happens after a step

    @property
    def beats(self) -> bool:
        if self.stuck:
            return False
        return (
            self.phase is Phase.TRAINING
            or self.phase is Phase.PAUSED
            or (self.phase is Phase.LOADING and self._trickles)
        )

    def next_at(self) -> float:
        if self.stuck:
            return math.inf
        at = min(self.until, self.react_at, self.drained_at)
        if self.phase is Phase.TRAINING and self.marks:
            last = min([step for step, _ in self.marks.values()])
            at = min(at, self.since + max(0.0, last - self.done) * self.box.step_s)
        return at

    def sync(self, now: float) -> None:
        if now <= self.since:
            return
        if self.phase is Phase.TRAINING and not self.stuck:
            self.done += (now - self.since) / self.box.step_s
        self.since = now

    def move(self, now: float) -> None:
        if now >= self.drained_at and not self.stuck:
            self._drained()
        super().move(now)
        if self.phase is not Phase.TRAINING or self.stuck:
            return
        for name, (step, deed) in self.marks.items():
            if self.done >= step - 1e-3:
                self.done = float(max(step, self.base))
                del self.marks[name]
                deed()
                break

    def sleep(self, seconds: float, now: float) -> None:
        super().sleep(seconds, now)
        self.drained_at += seconds

    def pulse(self, now: float) -> Pulse | None:
        if self.phase is None:
            return None
        progress = self._progressed(now)
        return Pulse(
            token=self.plan.token,
            step=int(self.done),
            phase=int(self.phase),
            progress=progress,
            durable=self.complete,
            saves=self.durable.saves if self.durable else 0,
        )

    def snapshots(self) -> list[Snapshot]:
        """What lies in memory now: the newest, and the newest durable one."""
        every = self.box.snapshot_steps
        found = [self._snapshot(self.base + int((self.done - self.base) // every) * every, durable=False)]
        found = [snapshot for snapshot in found if snapshot.step > self.base]
        if self.durable is not None:
            found = [snapshot for snapshot in found if snapshot.step > self.durable.step] + [self.durable]
        return found

    def expect(self, poisons: list[Poison], tell: Callable[[Spoil, int], None]) -> None:
        """Train on what spoils the weights when it is its turn; `tell` hears of it (and at which step) when a detector would."""
        if self.spoil is None or self.done < self.spoil.step:
            steps = [(step_of(poison, self.plan.skip), poison) for poison in poisons]
            coming = [(step, poison) for step, poison in steps if step is not None and step > self.done]
            self.spoil = Spoil(*min(coming, key=lambda item: item[0])[::-1]) if coming else None
        self.marks.pop("numeric", None)
        if self.spoil is not None and not self._told:
            spoil, found = self.spoil, max(self.spoil.found, self.base + 1)
            self.marks["numeric"] = (found, lambda: self._went_wrong(spoil, found, tell))

    def _went_wrong(self, spoil: Spoil, found: int, tell: Callable[[Spoil, int], None]) -> None:
        self._told = True
        tell(spoil, found)
        if spoil.poison.kind == NOT_FINITE:
            self._end(Exit.NUMERIC)

    def _snapshot(self, step: int, *, durable: bool) -> Snapshot:
        spoilt = self.spoil is not None and self.spoil.poison.kind != NOT_FINITE and step >= self.spoil.step
        saves = self.control.saves if durable else 0
        return Snapshot(step, self.plan.attempt, self.plan.token, durable, saves, self.spoil if spoilt else None)

    def _begin(self) -> None:
        self._enter(Phase.LOADING, self._load_s, self._train if self._readable else self._bad)

    def find_no_gpu(self) -> None:
        """It ends before it has read anything."""
        self._load_s, self._readable, self._code = self.box.import_s, False, Exit.GPU

    def _bad(self) -> None:
        self._end(Exit.GPU if self._code == Exit.GPU else Exit.CHECKPOINT)

    def _train(self) -> None:
        self._enter(Phase.TRAINING)
        self.react_at = self.since + self.box.micro_s

    def _react(self) -> None:
        """At a micro-step's end: stop, save, pause or go on, as the control word says."""
        self.react_at = math.inf
        if self.phase not in (Phase.TRAINING, Phase.PAUSED):
            return
        if self.control.stop or self.stopping:
            self._save(self._leave)
        elif self.control.saves > self.answered.saves or self.control.due > self.answered.due:
            self.answered = self.control
            self._stall()
        elif bool(self.control.pause) != (self.phase == Phase.PAUSED):
            self._enter(Phase.PAUSED if self.control.pause else Phase.TRAINING)

    def finish(self) -> None:
        """All steps are done."""
        self._code = Exit.OK
        self._save(self._leave)

    def _stall(self) -> None:
        """A snapshot beside training: the next update begins a little later, sooner than anybody looks."""
        self._saving = self._snapshot(int(self.done), durable=True)
        self.since += self.box.stall_s * (self.phase is Phase.TRAINING)
        self.drained_at = self.since + self.box.drain_s
        if bool(self.control.pause) != (self.phase is Phase.PAUSED):
            self.react_at = self.since + self.box.micro_s

    def _save(self, then: Callable[[], None]) -> None:
        self._saving = self._snapshot(int(self.done), durable=True)
        self._enter(Phase.SAVING, self.box.stall_s, then)
        self.drained_at = self.until + self.box.drain_s

    def _drained(self) -> None:
        self.drained_at = math.inf
        self.durable, self.complete = self._saving, self.complete + 1

    def _leave(self) -> None:
        self._enter(Phase.ENDING, self.box.stop_s, lambda: self._end(self._code))
