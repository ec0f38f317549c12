"""What the configuration promises of checkpoints: which are kept, and why. Pure: adamctl shows it, the keeper acts on it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

import msgspec

from adam.contract.config import Checkpoint

HOUR_S = 3600.0


class Dated(Protocol):
    """A checkpoint, as far as the rules ask. `made`: when, by the wall clock; None where that is not known."""

    @property
    def name(self) -> str: ...
    @property
    def step(self) -> int: ...
    @property
    def attempt(self) -> int: ...
    @property
    def made(self) -> float | None: ...


AnyDated = TypeVar("AnyDated", bound=Dated)


class Rules(msgspec.Struct, frozen=True):
    """The keys of [checkpoint] of these names."""

    keep_last: int
    milestone_every: int = 0
    keep_every_hours: float = 0.0


def rules_of(config: Checkpoint) -> Rules:
    return Rules(config.keep_last, config.milestone_every, config.keep_every_hours)


def in_order(checkpoints: Iterable[AnyDated]) -> list[AnyDated]:
    """Oldest first: by step, then by attempt. The clock has no say in it."""
    return sorted(checkpoints, key=lambda item: (item.step, item.attempt))


def why_kept(
    checkpoints: Iterable[Dated], rules: Rules, pins: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """Checkpoint -> what keeps it: newest, milestone, hourly, pinned; empty where nothing does."""
    ordered = in_order(checkpoints)
    newest = {item.name for item in ordered[max(0, len(ordered) - rules.keep_last) :]}
    hourly = _first_of_windows(ordered, rules.keep_every_hours)
    found = {}
    for item in ordered:
        reasons = {
            "newest": item.name in newest,
            "milestone": rules.milestone_every > 0 and item.step % rules.milestone_every == 0,
            "hourly": item.name in hourly,
            "pinned": bool(pins.get(item.name)),
        }
        found[item.name] = tuple(reason for reason, holds in reasons.items() if holds)
    return found


def _first_of_windows(ordered: Iterable[Dated], hours: float) -> set[str]:
    """The first checkpoint of each window of `hours`; every one whose time is not known, for it may be the first of its window.

    Windows lie fixed on the wall clock, so what goes in between changes no answer.
    """
    if hours <= 0:
        return set()
    seen: set[float] = set()
    first = set()
    for item in ordered:
        window = None if item.made is None else item.made // (hours * HOUR_S)
        if window is None or window not in seen:
            first.add(item.name)
        if window is not None:
            seen.add(window)
    return first
