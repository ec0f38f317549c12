"""When a snapshot is due."""

import math
import statistics
import time
from collections import deque
from collections.abc import Callable

from adam.contract.shared import Control
from adam.contract.slots import MILESTONE, RAM
from adam.contract.young import young_s

SHARE = 0.004  # of the training time that snapshots in memory may cost: under half a per cent
LONGEST_EVERY = 1000
RETRY_S = 1.0
REMEMBERED, STEPS_REMEMBERED = 9, 33


def steps_between(stall_s: float, step_s: float, share: float = SHARE) -> int:
    """How many updates lie between two snapshots of `stall_s` each, so that they cost at most `share` of the training time."""
    if step_s <= 0:
        return 1
    return min(LONGEST_EVERY, max(1, math.ceil(stall_s / (share * step_s))))


def young_steps(stall_s: float, step_s: float, death_interval_s: float) -> int:
    """How many updates lie between two snapshots where processes die often, so that snapshots and steps done again cost least together."""
    return max(1, round(young_s(stall_s, death_interval_s) / step_s)) if step_s > 0 else 1


class Pace:
    """Why a snapshot is due after an update, most urgent first: milestone, request, interval (all durable), ram.

    Args:
        every: steps between durable ones; 0: when the watchdog asks.
        ram_every: steps between those in memory; 0: chosen from what they cost.
        milestone_every: steps between those that are kept for ever; 0: none.
        death_interval_s: seconds between the deaths of trainers seen lately; 0: they are rare.
    """

    def __init__(
        self,
        every: int,
        ram_every: int,
        milestone_every: int = 0,
        death_interval_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._death_interval_s, self._born = death_interval_s, clock()
        self._every, self._ram_every, self._milestone_every, self._clock = every, ram_every, milestone_every, clock
        self._stalls: deque[float] = deque(maxlen=REMEMBERED)
        self._steps: deque[float] = deque(maxlen=STEPS_REMEMBERED)
        self._slowed: deque[float] = deque(maxlen=STEPS_REMEMBERED)  # steps beside a copy, which may slow them
        self._beside = 0  # how many of those there were since the last snapshot began
        self._lasted: deque[int] = deque(maxlen=REMEMBERED)
        self._last_step: int | None = None
        self._wanted = ""
        self._blocked_until = 0.0
        self._answered = Control()

    @property
    def every_in_ram(self) -> int:
        """Updates between two snapshots in memory, as it stands."""
        if self._ram_every:
            return self._ram_every
        if not self._stalls or not self._steps:
            return 1
        cost, step = self.cost_s, statistics.median(self._steps)
        chosen = steps_between(cost, step)
        if not self._death_interval_s:
            return chosen
        # A trainer that has lived for long says that they no longer die so often.
        interval = max(self._death_interval_s, self._clock() - self._born)
        return min(chosen, young_steps(cost, step, interval))

    @property
    def cost_s(self) -> float:
        """What a snapshot costs training: the stall, and how much longer the steps take while it is being copied."""
        stall = statistics.median(self._stalls)
        if not self._slowed or not self._lasted:
            return stall
        slower = statistics.median(self._slowed) - statistics.median(self._steps)
        return stall + statistics.median(self._lasted) * max(0.0, slower)

    def stepped(self, seconds: float, *, beside: bool = False) -> None:
        """An update took so long; `beside` a snapshot that was being copied."""
        (self._slowed if beside else self._steps).append(seconds)
        self._beside += beside

    def asked(self, control: Control) -> bool:
        """True where somebody asks for a save that was not begun yet."""
        return control.saves > self._answered.saves or control.due > self._answered.due

    def due(self, step: int, control: Control, *, in_ram: bool) -> str:
        """Why a snapshot is to be taken after update `step`; empty: not now."""
        if self._wanted == MILESTONE or (self._milestone_every and step % self._milestone_every == 0):
            self._wanted = MILESTONE
        elif control.saves > self._answered.saves:
            self._wanted = "request"
        elif control.due > self._answered.due or (self._every and step % self._every == 0):
            self._wanted = self._wanted or "interval"
        if self._wanted:
            return self._wanted if self._clock() >= self._blocked_until else ""
        since = math.inf if self._last_step is None else step - self._last_step
        return RAM if in_ram and since >= self.every_in_ram else ""

    def begun(self, step: int, control: Control, stall_s: float) -> None:
        """A snapshot of `step` is under way; `stall_s` is what the last one cost."""
        self._stalls.append(stall_s)
        if self._last_step is not None:
            self._lasted.append(self._beside)
        self._beside = 0
        self._last_step, self._wanted, self._answered = step, "", control

    def postponed(self) -> None:
        """Slots are busy or not there yet: one that is durable is tried again a little later."""
        self._blocked_until = self._clock() + RETRY_S
