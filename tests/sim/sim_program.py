"""A program as a model: phases that follow one another by time, signs of life, a control word that is read at seams. And the forge."""

import math
from collections.abc import Callable

from sim_box import Box

from adam.contract.records import Plan
from adam.contract.shared import Control, Pulse
from adam.contract.states import Exit, Phase

WAKES_S = 0.3  # after a sleep of the machine, until the first sign of life
UNIT_S = 10.0  # of the forge's work: what is whole outlives it


class Program:
    """One attempt. `end` is called with its exit code when it ends by itself. Time is an argument."""

    def __init__(self, plan: Plan, now: float, box: Box, end: Callable[[int], None]) -> None:
        self.plan, self.box, self._end = plan, box, end
        self.phase: Phase | None = None
        self.since = now  # up to when its work was reckoned
        self.until, self._then = now + box.mute_s, self._begin
        self.react_at, self.quiet_until = math.inf, now
        self.control = Control()
        self.letter = "S"
        self.stuck = self.killed = self.stopping = False
        self.progress = 0

    # ── what each program does in its own way ──

    @property
    def beats(self) -> bool:
        """Does each look see it move?"""
        raise NotImplementedError

    def sync(self, now: float) -> None:
        """Reckon the work that was done up to `now`."""
        raise NotImplementedError

    def pulse(self, now: float) -> Pulse | None:
        raise NotImplementedError

    def _begin(self) -> None:
        raise NotImplementedError

    def _react(self) -> None:
        raise NotImplementedError

    # ── what all have in common ──

    def next_at(self) -> float:
        return math.inf if self.stuck else min(self.until, self.react_at)

    def move(self, now: float) -> None:
        """Do what is due at `now`."""
        self.sync(now)
        if self.stuck:
            return
        if now >= self.until:
            self._then()
        if now >= self.react_at:
            self._react()

    def hear(self, control: Control, now: float) -> None:
        past = self.control
        if control.token != self.plan.token:
            return
        self.control = control
        if (control.pause, control.saves, control.due, control.stop) != (past.pause, past.saves, past.due, past.stop):
            self.react_at = now + self.box.micro_s

    def ask_to_stop(self, now: float) -> None:
        """SIGTERM."""
        self.stopping, self.react_at = True, min(self.react_at, now + self.box.micro_s)

    def sleep(self, seconds: float, now: float) -> None:
        """The machine slept until `now`: everything of ours is later by that, and the first sign of life a moment later still."""
        self.since, self.quiet_until = now, now + WAKES_S
        self.until, self.react_at = self.until + seconds, self.react_at + seconds

    def _progressed(self, now: float) -> int:
        self.sync(now)
        if self.beats and now >= self.quiet_until:
            self.progress += 1
        return self.progress

    def _enter(self, phase: Phase, seconds: float = math.inf, then: Callable[[], None] | None = None) -> None:
        self.phase, self.progress = phase, self.progress + 1
        self.until, self._then = self.since + seconds, then or self._then


class Forge(Program):
    """Sources to shards, a tokenizer, tokens. `work`: seconds of it that are done, and kept by whoever comes after."""

    PHASES = (Phase.READING, Phase.LEARNING, Phase.ENCODING)

    def __init__(self, plan: Plan, now: float, box: Box, end: Callable[[int], None], work: float) -> None:
        super().__init__(plan, now, box, end)
        self.work = work
        self.ends = (box.read_s, box.read_s + box.learn_s, box.forging_s)

    @property
    def beats(self) -> bool:
        return self.phase in (Phase.READING, Phase.ENCODING) and not self.stuck

    @property
    def kept(self) -> float:
        """The work that a death now leaves: whole units, and a tokenizer only where it is done."""
        learning = self.ends[0] <= self.work < self.ends[1]
        return self.ends[0] if learning else self.work // UNIT_S * UNIT_S

    def sync(self, now: float) -> None:
        if self.phase in self.PHASES and not self.stuck:
            self.work += max(0.0, now - self.since)
        self.since = now

    def pulse(self, now: float) -> Pulse | None:
        if self.phase is None:
            return None
        progress = self._progressed(now)
        return Pulse(token=self.plan.token, phase=int(self.phase), progress=progress, done=int(self.work))

    def _begin(self) -> None:
        """Go on in the phase that the work has come to; behind the last one there is nothing left to do."""
        place = sum(self.work >= end - 1e-3 for end in self.ends)
        if place == len(self.ends):
            self._end(Exit.OK)
        else:
            self._enter(self.PHASES[place], self.ends[place] - self.work, self._begin)
        self.react_at = min(self.react_at, self.since + self.box.micro_s)

    def _react(self) -> None:
        self.react_at = math.inf
        if self.control.stop or self.stopping:
            self._end(Exit.STOPPED)
