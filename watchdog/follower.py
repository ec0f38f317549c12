"""What the processes share that follow a file of the run and tell others of it: the alerter, the sinks. They may hang; nobody waits.

A follower writes a line to stdout when its trouble changes, and every BEAT_S to show that it lives. When its stdin is closed, this is
the end: it does what is left once, and ends.
"""

import select
import sys
from collections.abc import Callable

import msgspec

from adam.contract.clock import boottime_ns

LOOK_S = 1.0
BEAT_S = 20.0


class FollowerWords(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of a follower to the watchdog. `trouble` is empty where all is well; `missing`: it ends, for it lacks a package."""

    trouble: str = ""
    missing: bool = False


class Voice:
    """Says what has changed."""

    def __init__(self) -> None:
        self._told = FollowerWords()
        self._at = -BEAT_S

    def say(self, words: FollowerWords, now: float) -> None:
        if words == self._told and now - self._at < BEAT_S:
            return
        self._told, self._at = words, now
        self.again()

    def again(self) -> None:
        """Say once more what was said last: within a turn that takes long for a good reason."""
        sys.stdout.buffer.write(msgspec.json.encode(self._told) + b"\n")
        sys.stdout.buffer.flush()


class Patience:
    """When something that failed may be tried again: after `least_s`, then twice as long each time, `most_s` at most."""

    def __init__(self, least_s: float, most_s: float) -> None:
        self._least_s, self._most_s = least_s, most_s
        self._failures, self._not_before = 0, 0.0

    def allows(self, now: float) -> bool:
        return now >= self._not_before

    def failed(self, now: float) -> None:
        self._not_before = now + min(self._most_s, self._least_s * 2.0 ** min(self._failures, 60))
        self._failures += 1

    def went_well(self) -> None:
        self._failures, self._not_before = 0, 0.0


def follow(turn: Callable[[float], None]) -> None:
    """Call `turn` with the time (seconds of CLOCK_BOOTTIME) again and again, until stdin is closed, and once more then."""
    while True:
        ended = select.select([sys.stdin], [], [], LOOK_S)[0]
        turn(boottime_ns() / 1e9)
        if ended:
            return
