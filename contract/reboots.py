"""Reboots of the machine that a run asks for: the journal, which is the request too, and how often it may be asked.

The watchdog asks within the run's own bounds; who is root and does it (`adamctl systemd install --reboot`) has a journal and bounds of
its own.
"""

import math
from collections.abc import Iterable

import msgspec

from adam.contract.clock import Stamp
from adam.contract.schema import Record

DAY_S = 86400.0


class Reboot(msgspec.Struct, frozen=True):
    """One that was asked for, when the run had come to `step`."""

    stamp: Stamp
    step: int
    why: str


class Reboots(Record, frozen=True, kw_only=True):
    """`run/reboots.json` (writer: watchdog): all that are remembered, oldest first. That it changes is the request."""

    asked: tuple[Reboot, ...] = ()


class RebootRules(msgspec.Struct, frozen=True, kw_only=True):
    """`per_day`: in any 24 hours; 0: never. `uptime_s`: that a machine is left alone after its start."""

    per_day: int = 0
    uptime_s: float = 3600.0


def wait_s(rules: RebootRules, ages: Iterable[float], uptime_s: float) -> float:
    """Seconds until a reboot may be asked for; 0.0: now, inf: never. `ages`: seconds since each of those that were asked for.

    A clock that was set may make ages wrong; `uptime_s`, by CLOCK_BOOTTIME, bounds them all the same.
    """
    if not rules.per_day:
        return math.inf
    spent = sorted(age for age in ages if age < DAY_S)
    day = DAY_S - spent[rules.per_day - 1] if len(spent) >= rules.per_day else 0.0
    return max(0.0, rules.uptime_s - uptime_s, day)
