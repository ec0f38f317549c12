"""Numeric trouble as a model: data that spoil whoever trains on them, and what the detector says of it so many steps later.

The detector itself is tried on long made-up loss series (tests/watchdog/test_detect.py); here is what it would say, and when.
"""

from dataclasses import dataclass

from adam.watchdog.detect import DIVERGENCE, NOT_FINITE, SPIKE, Trouble

BATCH = 8  # samples of an update
STEPS_UNTIL_FOUND = {NOT_FINITE: 0, SPIKE: 9, DIVERGENCE: 140}  # as measured: docs/log.md
Skip = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Poison:
    """What makes training go wrong: a sample, or (`sample` −1) something that happens at a step whatever the data are."""

    kind: str
    sample: int
    step: int = 0


@dataclass
class Spoil:
    """Weights that were trained on a poison at `step`: they and all that follows are worth nothing. `known`: the policy was told."""

    poison: Poison
    step: int
    known: bool = False

    @property
    def found(self) -> int:
        return self.step + STEPS_UNTIL_FOUND[self.poison.kind]


def position(index: int, skip: Skip) -> int:
    """The data position of the `index`-th sample that is trained on."""
    for start, end in sorted(skip):
        index += (end - start) * (index >= start)
    return index


def step_of(poison: Poison, skip: Skip) -> int | None:
    """The update that trains on it; None where it is left out."""
    if poison.sample < 0:
        return poison.step
    if any(start <= poison.sample < end for start, end in skip):
        return None
    before = sum(end - start for start, end in skip if end <= poison.sample)
    return (poison.sample - before) // BATCH + 1


def trouble_of(spoil: Spoil, found: int, attempt: int, skip: Skip) -> Trouble:
    first = position((spoil.step - 1) * BATCH, skip)
    return Trouble(
        kind=spoil.poison.kind,
        attempt=attempt,
        step=spoil.step,
        found=found,
        first_sample=first,
        end_sample=position(found * BATCH - 1, skip) + 1,
        before=position(max(0, spoil.step - 2) * BATCH, skip),
        loss=None if spoil.poison.kind == NOT_FINITE else 9.0,
        usual=2.5,
    )
