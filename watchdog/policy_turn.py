"""One decision in the making: what was seen, what is remembered, and the actions so far. Lives for one call of `decide`."""

import hashlib
from typing import Any

from msgspec.structs import replace

from adam.contract.records import Plan
from adam.contract.shared import Pulse
from adam.watchdog.policy_words import Action, Changes, LeaseSeen, Memory, Observation, Settings, Stage, Tell


class Turn:
    """Collects the next memory and the actions; nothing outside is touched."""

    def __init__(self, settings: Settings, memory: Memory, seen: Observation, now: float) -> None:
        self.settings, self.memory, self.seen, self.now = settings, memory, seen, now
        self.actions: list[Action] = []
        self.notes: list[str] = []
        self.alarms: list[float] = []

    def set(self, **fields: Any) -> None:
        self.memory = replace(self.memory, **fields)

    def enter(self, stage: Stage, **fields: Any) -> None:
        self.set(stage=stage, since=self.now, **fields)

    def act(self, *actions: Action) -> None:
        self.actions += actions

    def tell(self, kind: str, text: str, /, **facts: str | int | float | bool | None) -> None:
        self.actions.append(Tell(kind, text, facts))

    def note(self, text: str) -> None:
        """Something is wrong while the run goes on: shown in the status as long as it is."""
        self.notes.append(text)

    def wake(self, at: float) -> None:
        self.alarms.append(at)

    @property
    def plan(self) -> Plan:
        """The plan of the present attempt; there is one in every stage where something was started."""
        if self.memory.plan is None:
            raise ValueError(f"no plan in stage {self.memory.stage}")
        return self.memory.plan

    @property
    def wanted(self) -> bool:
        return self.seen.desired.running

    @property
    def changes(self) -> Changes:
        """What the next plan has besides the configuration."""
        return self.seen.changes if self.memory.changes is None else self.memory.changes

    @property
    def micro_batch(self) -> int:
        """Samples at once where memory did not suffice for the configured number; 0: as configured."""
        size, settings = self.changes.micro_batch, self.settings
        # People may have configured an even smaller one since.
        return size if 0 < size < settings.micro_batch and settings.batch_size % (size * settings.gpus) == 0 else 0

    @property
    def wish_stamp(self) -> float:
        """When people last said what they want (wall clock; 0.0: never)."""
        return self.seen.desired.stamp.wall if self.seen.desired.stamp else 0.0

    @property
    def pulse(self) -> Pulse | None:
        """The pulse, where it is the present attempt's."""
        pulse = self.seen.pulse
        return pulse if pulse is not None and pulse.token == self.plan.token else None

    @property
    def holder(self) -> LeaseSeen | None:
        """The lease, where its holder's launcher or anybody else still holds it."""
        lease = self.seen.lease
        return lease if lease is not None and (lease.launcher_alive or lease.held) else None

    def backoff_s(self, failures: int) -> float:
        """Doubles with each failure in a row up to the cap; between half of it and all of it, by the seed."""
        settings = self.settings
        full = min(settings.backoff_cap_seconds, settings.backoff_seconds * 2.0 ** min(failures - 1, 60))
        text = f"{settings.seed}:{self.memory.plan.token if self.memory.plan else 0}:{failures}"
        share = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64
        return full * (0.5 + 0.5 * share)
