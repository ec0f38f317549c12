"""A GPU's heat as a model: the temperature falls or climbs towards what load and cooling would make of it in the end."""

import math

from adam.contract.records import Gpu
from adam.watchdog.policy_words import HeatLimits

SECONDS = 60.0  # in which all but 1/e of a difference is gone
WORKS, RESTS = 65.0, 40.0  # °C in the end
HOT_WORKS, HOT_RESTS = 92.0, 50.0  # … while the cooling is broken
LIMITS = HeatLimits()
NONE = 1e-6  # °C
PAST = 1e-3  # °C beyond a limit that count as over it


class Heat:
    """One GPU and its sensor. `hot`: it is too hot to train, by the limits' own hysteresis."""

    def __init__(self, now: float) -> None:
        self._from, self._at, self._works = RESTS, now, False
        self.broken_until = self.blind_until = 0.0
        self.hot = False

    def _goal(self, now: float) -> float:
        if now < self.broken_until:
            return HOT_WORKS if self._works else HOT_RESTS
        return WORKS if self._works else RESTS

    def celsius(self, now: float) -> float:
        goal = self._goal(self._at)
        if now == self._at or abs(self._from - goal) < NONE:
            return self._from
        return goal + (self._from - goal) * math.exp(-(now - self._at) / SECONDS)

    def move(self, now: float, *, works: bool) -> None:
        """Reckon up to `now`; from then on it works or rests."""
        self._from, self._at, self._works = self.celsius(now), now, works
        over = LIMITS.resume if self.hot else LIMITS.pause + 1  # NVML gives whole degrees, rounded down
        self.hot = self._from >= over - PAST / 2

    def next_at(self) -> float:
        """When it passes a limit, or something about it changes."""
        at = math.inf
        if self.broken_until > self._at:
            at = self.broken_until
        if self._at < self.blind_until < at:
            at = self.blind_until
        goal, limit = self._goal(self._at), LIMITS.resume - PAST if self.hot else LIMITS.pause + 1 + PAST
        if (goal - limit) * (limit - self._from) > 0:
            at = min(at, self._at + SECONDS * math.log((self._from - goal) / (limit - goal)))
        return at

    def seen(self, now: float) -> tuple[tuple[Gpu, ...], str]:
        """What the probe says: readings, and the state of the sensors."""
        if now < self.blind_until:
            return (), "unknown"
        return (Gpu(index=0, temperature_c=int(self.celsius(now))),), "ok"
