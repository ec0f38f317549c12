"""`run/status.json`: what the watchdog knows, for `adamctl status` and for the watchdog that comes after this one."""

from typing import Any

import msgspec

from adam.contract import schema
from adam.contract.clock import Stamp, boot_id, stamp
from adam.contract.errors import DataError
from adam.contract.paths import RunPaths
from adam.contract.records import Status
from adam.contract.states import RunState
from adam.watchdog.numerics import NumericsMemory
from adam.watchdog.policy import restored
from adam.watchdog.policy_words import Memory

FRESH_S = 2.0  # at least so often the stamp is renewed


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """All that outlives a watchdog process, in Status.memory."""

    policy: Memory = Memory()
    numerics: NumericsMemory = NumericsMemory()
    saves: int = 0
    staging: str = ""  # what was told last of where snapshots are written
    backend: str = ""  # and of a backend that failed


def recall(paths: RunPaths, now: float) -> Remembered:
    """What the last watchdog of this run remembered; from nothing where it left nothing that can be read.

    The lease, the plan and the checkpoints say the rest. Raises SchemaError where a newer Adam wrote it.
    """
    try:
        status = schema.load(paths.status, Status)
        if status is None or not status.memory:
            return Remembered()
        known = msgspec.convert(status.memory, Remembered)
    except (DataError, msgspec.ValidationError):
        return Remembered()
    same_boot = status.stamp.boot_id == boot_id()
    return msgspec.structs.replace(known, policy=restored(known.policy, now, same_boot=same_boot))


class StatusFile:
    """Written durably when the state changes, and cheaply every FRESH_S. `trouble` says why it can't be; empty: it can."""

    def __init__(self, paths: RunPaths) -> None:
        self._path, self._run = paths.status, paths.identity
        self._state: tuple[RunState, str, int] | None = None
        self._since: Stamp = stamp()
        self._written_at = -FRESH_S
        self._notes: tuple[str, ...] = ()
        self.trouble = ""

    def write(
        self, state: RunState, reason: str, attempt: int, remembered: Remembered, now: float, **facts: Any
    ) -> None:
        """Write what is to be known now, where it is time."""
        changed = (state, reason, attempt) != self._state
        noted = facts["notes"] != self._notes
        if not changed and not noted and now - self._written_at < FRESH_S:
            return
        if self._state is None or state != self._state[0]:
            self._since = stamp()
        status = Status(
            run=self._run,
            state=state,
            reason=reason,
            since=self._since,
            stamp=stamp(),
            attempt=attempt,
            memory=msgspec.to_builtins(remembered),
            **facts,
        )
        try:
            schema.save_reserved(self._path, status, durable=changed)
            self._state, self._notes, self._written_at = (state, reason, attempt), facts["notes"], now
            self.trouble = ""
        except OSError as error:
            self.trouble = f"{self._path.name} can't be written: {error.strerror}"
            self._written_at = now
