"""Lines of `events.jsonl`: what happened and why, for people and for scripts (writer: the watchdog alone)."""

from typing import Any

import msgspec

from adam.contract.clock import Stamp, iso


class Event(msgspec.Struct, frozen=True, omit_defaults=True):
    """One event. `kind` is one of KINDS; `text` is a sentence for people; `facts` are for scripts."""

    time: str
    kind: str
    text: str
    boottime: float
    boot_id: str
    schema: int = 1
    facts: dict[str, Any] = {}


KINDS = frozenset(
    {
        "watchdog_started",
        "started",  # a program
        "ended",  # a program, as it should
        "crashed",
        "hung",
        "stuck",  # nothing is given up, and nothing that is done helps
        "numeric",  # a loss that is not finite, a spike, a divergence, a stagnation
        "signalled",
        "checkpoint",
        "quarantined",
        "dropped",  # a snapshot that must not be committed
        "pruned",
        "staging",  # where snapshots are written, when that changes
        "paused",
        "resumed",
        "waiting",  # a back-off
        "plan_changed",
        "numerics_changed",
        "backend",  # the backend that was looked for computes again
        "backend_failed",  # a faster one failed its self-check; training goes on with another
        "source_changed",
        "steps_damaged",  # a line of steps.jsonl can't be read
        "disk_full",
        "disk_freed",
        "sensors",
        "heat",  # a GPU is too hot, or cool again
        "gpu",  # Xid, uncorrected memory errors, clocks held down, lost, its driver changed
        "reboot",  # of the machine, asked of systemd
        "keeper_restarted",
        "uploader_restarted",
        "uploaded",
        "upload_waiting",  # a trouble that passes: it is tried again by itself
        "upload_failed",  # a trouble that people have to mend
        "finished",
        "failed",
        "stopped",
    }
)


def event(kind: str, text: str, now: Stamp, **facts: Any) -> Event:
    """An event of `kind` at `now`. Raises ValueError for a kind that is not in KINDS."""
    if kind not in KINDS:
        raise ValueError(f"no such kind of event: {kind}")
    return Event(iso(now.wall), kind, text, now.boottime, now.boot_id, facts=facts)
