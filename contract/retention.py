"""What the configuration promises of checkpoints: which are kept, and why. Pure: adamctl shows it, the keeper acts on it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
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
    checkpoints: Iterable[Dated], rules: Rules, pins: Mapping[str, Sequence[str]], sound: int = 0
) -> dict[str, tuple[str, ...]]:
    """Checkpoint -> what keeps it: newest, milestone, hourly, sound, pinned; empty where nothing does.

    Sound is the newest one up to the step `sound`, where the chip was last known to compute right: what is behind it may be gone back from.

    A milestone is the first checkpoint at or behind a multiple of so many steps: one that a busy disk delayed counts too. Hours lie fixed
    on the wall clock, so what goes in between changes no answer; one whose time is not known may be the first of its hours.
    """
    ordered = in_order(checkpoints)
    newest = {item.name for item in ordered[max(0, len(ordered) - rules.keep_last) :]}
    steps, seconds = rules.milestone_every, rules.keep_every_hours * HOUR_S
    milestones = _first_of_each(ordered, lambda item: item.step // steps) if steps > 0 else set()
    milestones -= {item.name for item in ordered if item.step < steps}
    hourly = (
        _first_of_each(ordered, lambda item: None if item.made is None else item.made // seconds)
        if seconds > 0
        else set()
    )
    to_go_back_to = [item.name for item in ordered if 0 < item.step <= sound][-1:]
    found = {}
    for item in ordered:
        reasons = {
            "newest": item.name in newest,
            "milestone": item.name in milestones,
            "hourly": item.name in hourly,
            "sound": item.name in to_go_back_to,
            "pinned": bool(pins.get(item.name)),
        }
        found[item.name] = tuple(reason for reason, holds in reasons.items() if holds)
    return found


def _first_of_each(ordered: Iterable[AnyDated], window: Callable[[AnyDated], float | None]) -> set[str]:
    """The first checkpoint of each window, and every one of which the window is not known."""
    seen: set[float] = set()
    first = set()
    for item in ordered:
        place = window(item)
        if place is None or place not in seen:
            first.add(item.name)
        if place is not None:
            seen.add(place)
    return first
