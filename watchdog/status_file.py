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
from adam.watchdog.syncer import Syncer

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
    """Written when something has changed, and every FRESH_S; made durable when the state has. `trouble`: why it can't be; empty: it can.

    The loop does not wait for the disk: what is written is there for the watchdog that comes after this one, and a moment later for
    the next boot.
    """

    def __init__(self, paths: RunPaths) -> None:
        self._path, self._run = paths.status, paths.identity
        self._told: tuple[RunState, str, int] | None = None
        self._since: Stamp = stamp()
        self._written_at = -FRESH_S
        self._notes: tuple[str, ...] = ()
        self._syncer = Syncer(self._path)
        self._trouble = ""

    @property
    def trouble(self) -> str:
        return self._trouble or self._syncer.trouble

    def settle(self, seconds: float) -> None:
        """Wait until what was written is durable; `seconds` at most."""
        self._syncer.wait(seconds)

    def write(
        self, state: RunState, reason: str, attempt: int, remembered: Remembered, now: float, **facts: Any
    ) -> None:
        """Write what is to be known now, where it is time."""
        told = (state, reason, attempt)
        changed, noted = told != self._told, facts["notes"] != self._notes
        if not changed and not noted and now - self._written_at < FRESH_S:
            return
        if self._told is None or state != self._told[0]:
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
            schema.save_reserved(self._path, status, durable=False)
        except OSError as error:
            self._trouble, self._written_at = f"{self._path.name} can't be written: {error.strerror}", now
            return
        if lasting(told) != lasting(self._told) or self._syncer.trouble:
            self._syncer.ask()
        self._told, self._notes, self._written_at, self._trouble = told, facts["notes"], now, ""


def lasting(told: tuple[RunState, str, int] | None) -> tuple[object, ...] | None:
    """What of (state, reason, attempt) the next boot is to know: not that a training run saves or validates just now."""
    if told is None:
        return None
    state, reason, attempt = told
    return state, "" if state == RunState.TRAINING else reason, attempt
