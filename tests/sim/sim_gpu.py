"""A GPU that falls off the bus as a model: for hours, or until the machine is started again; and what the sensors say of it."""

import math
from dataclasses import dataclass

from adam.watchdog.probe_words import Xid

SEEN_S = 5.0  # until the sensors have read it, where no error told at once


@dataclass
class Card:
    """`gone_until`: it can't be trained on (inf: before a boot; else no boot helps). `says`: lost or mismatch, or nothing: NVML hangs."""

    gone_from: float = 0.0
    gone_until: float = 0.0
    says: str = ""

    def gone(self, now: float) -> bool:
        return now < self.gone_until

    def lose(self, now: float, until: float, says: str) -> None:
        self.gone_from, self.gone_until, self.says = now, until, says

    def boots(self, now: float) -> None:
        self.gone_until = now if self.gone_until == math.inf else self.gone_until

    def next_at(self, now: float) -> float:
        """When something about it is to be seen."""
        if now >= self.gone_until and now >= self.gone_from + SEEN_S:
            return math.inf
        times = [at for at in (self.gone_until, self.gone_from + SEEN_S) if at > now]
        return min(times, default=math.inf)

    def is_silent(self, now: float) -> bool:
        return self.gone(now) and not self.says and now >= self.gone_from + SEEN_S

    def fault(self, now: float) -> str:
        """As in Reading."""
        return self.says if self.gone(now) and now >= self.gone_from + SEEN_S else ""

    def xids(self, now: float) -> tuple[Xid, ...]:
        return (Xid(0, 79),) if self.fault(now) == "lost" else ()
