"""Time, stamped twice: the wall clock for people, boot id and CLOCK_BOOTTIME for decisions.

The wall clock jumps (NTP, people); CLOCK_BOOTTIME does not and counts suspended time, but means nothing after a reboot.
"""

import functools
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import msgspec


class Stamp(msgspec.Struct, frozen=True):
    """A moment: `wall` in Unix seconds, `boottime` in seconds since the boot that `boot_id` names."""

    wall: float
    boot_id: str
    boottime: float

    def age_s(self, now: "Stamp") -> float:
        """Seconds from this moment to `now`: by boot time within one boot, by the wall clock across boots, never negative."""
        if self.boot_id == now.boot_id:
            return max(0.0, now.boottime - self.boottime)
        return max(0.0, now.wall - self.wall)

    def in_boot_of(self, now: "Stamp") -> "Stamp":
        """This moment by the clocks of `now`'s boot: what the wall clock does from now on no longer changes its age."""
        age = self.age_s(now)
        return self if self.boot_id == now.boot_id else Stamp(now.wall - age, now.boot_id, now.boottime - age)


@functools.cache
def boot_id() -> str:
    """Names this boot. Our units say it ($ADAM_BOOT_ID): in a container, /proc shows them the host's, as their /proc is a new one."""
    if said := os.environ.get("ADAM_BOOT_ID"):
        return str(UUID(said))
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def boottime_ns() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def stamp() -> Stamp:
    return Stamp(wall=time.time(), boot_id=boot_id(), boottime=boottime_ns() / 1e9)


def iso(wall: float) -> str:
    """`2026-11-21T05:00:00.123Z` of a Unix time in seconds."""
    return datetime.fromtimestamp(wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
