"""Hub and uploader as models: the real policy of uploads decides, the Hub takes, refuses, stands still or loses its answers."""

import math
from collections import deque
from dataclasses import dataclass, field

from sim_box import HOUR, Box

from adam.contract.clock import Stamp
from adam.watchdog import upload_policy
from adam.watchdog.upload_policy import Rules
from adam.watchdog.upload_words import Journal, Newest, Outcome, Task, Trouble
from adam.watchdog.uploader import BYTES_PER_S, PATIENCE_S

REFUSED_S = 3.0  # until the Hub has said no
MOST_AN_HOUR = 120  # the Hub takes 128 commits
RULES = Rules("hf://somebody/run", HOUR, 24 * HOUR)


@dataclass
class Hub:
    """The far place. `there`: what has arrived, kind of thing and checkpoint."""

    away_until: float = 0.0  # 5xx
    stalls_until: float = 0.0  # it takes nothing and says nothing
    busy_until: float = 0.0  # 429
    refuses: bool = False  # until people have done something
    mute: bool = False  # the next answer is lost on its way
    there: set[tuple[str, str]] = field(default_factory=set)
    commits: int = 0

    def well(self, now: float) -> bool:
        return not self.refuses and now >= max(self.away_until, self.stalls_until, self.busy_until)

    def take(self, task: Task, now: float) -> Outcome:
        """The end of an upload at `now`."""
        if self.refuses:
            return Outcome(trouble=Trouble("401", 401))
        if now < self.busy_until:
            return Outcome(trouble=Trouble("429", 429, retry_after=self.busy_until - now))
        if now < self.away_until:
            return Outcome(trouble=Trouble("503", 503))
        new = set(parts(task)) - self.there
        if new:
            self.commits += 1
            self.there |= new
            if self.mute:
                self.mute = False
                return Outcome(trouble=Trouble("the connection was reset"))
        return Outcome()


def parts(task: Task) -> list[tuple[str, str]]:
    return [("weights", task.checkpoint)] * task.weights + [("state", task.checkpoint)] * task.state


class Uploader:
    """The uploader and its job. The journal is on disk, and outlives it; both die with the watchdog."""

    def __init__(self, hub: Hub, box: Box, journal: Journal) -> None:
        self.hub, self.box, self.journal = hub, box, journal
        self.newest: Newest | None = None
        self.task: Task | None = None
        self.key = "token 0"
        self.job_ends = self.gives_up = self.look_at = math.inf
        self.tries: deque[float] = deque(maxlen=MOST_AN_HOUR + 1)
        self.arrived_at = -math.inf
        self._asked, self._pending = (None, None, None), False

    @property
    def held(self) -> tuple[str, ...]:
        return (self.task.checkpoint,) if self.task is not None else ()

    def next_at(self) -> float:
        return self.look_at if self.task is None else min(self.job_ends, self.gives_up)

    def sleep(self, seconds: float) -> None:
        self.job_ends, self.gives_up = self.job_ends + seconds, self.gives_up + seconds

    def die(self, now: float) -> None:
        """And its job with it; another one is started."""
        self.task, self.job_ends, self.gives_up = None, math.inf, math.inf
        self.look_at = now + 0.5

    def hear(self, checkpoint: str, final: bool, now: float, stamp: Stamp) -> None:
        known = self.newest
        if known is None or known.checkpoint != checkpoint or known.final != final:
            self.newest, self.look_at = Newest(checkpoint, final), now
            self.move(now, stamp)

    def mend(self, now: float) -> None:
        """People put another token in its place."""
        self.hub.refuses, self.key, self.look_at = False, f"token {now}", now

    def pending(self, stamp: Stamp) -> bool:
        """See UploaderClient: is there anything left to be done, or hoped for?"""
        if self.newest is None or self.task is not None:
            return self.newest is not None
        asked = (self.journal, self.newest, self.key)  # time has no say in it: what is not due yet is pending too
        if any(now is not then for now, then in zip(asked, self._asked, strict=True)):
            self._asked = asked
            self._pending = not upload_policy.settled(RULES, *asked, stamp)
        return self._pending

    def move(self, now: float, stamp: Stamp) -> None:
        if self.task is not None and now >= min(self.job_ends, self.gives_up):
            self._finish(now, stamp)
        if self.task is None and now >= self.look_at:
            self._decide(now, stamp)

    def _decide(self, now: float, stamp: Stamp) -> None:
        decision = upload_policy.decide(RULES, self.journal, self.newest, self.key, stamp)
        if not isinstance(decision, Task):
            self.look_at = math.inf if decision.seconds is None else now + max(1.0, decision.seconds)
            return
        self.journal = upload_policy.begun(self.journal, stamp)
        self.task, self.look_at = decision, math.inf
        self.tries.append(now)
        size = self.box.commit_bytes
        self.gives_up = now + PATIENCE_S + size / BYTES_PER_S
        sends = self.box.weights_s * decision.weights + self.box.state_s * decision.state
        at_once = not self.hub.well(now) or set(parts(decision)) <= self.hub.there
        self.job_ends = now + (REFUSED_S if at_once else sends)

    def _finish(self, now: float, stamp: Stamp) -> None:
        assert self.task is not None
        if now < min(self.hub.stalls_until, self.gives_up):
            self.job_ends = self.hub.stalls_until  # it goes on then, where it has not been given up
            return
        late = now >= self.gives_up
        outcome = Outcome(trouble=Trouble("given up")) if late else self.hub.take(self.task, now)
        task, self.task = self.task, None
        self.job_ends = self.gives_up = math.inf
        self.look_at = now
        if outcome.trouble is None:
            self.journal, self.arrived_at = upload_policy.arrived(self.journal, task, stamp), now
        else:
            self.journal = upload_policy.failed(RULES, self.journal, outcome.trouble, self.key, stamp)
