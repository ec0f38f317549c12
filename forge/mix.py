"""Which source gives the next document. Pure: a function of the phases and of what was taken so far, so that it survives a kill.

Documents are dealt out so that after every one of them each source is less than one document from its share (Tijdeman, The
chairman assignment problem, Discrete Mathematics 32, 1980); with a target the shares are first made whole documents by largest
remainder. Characters and tokens come in documents of sizes that nobody knows beforehand: the same rule, by turns of the largest
document so far, keeps each source within that one document from its share.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import lcm

import msgspec

from adam.contract.config_forge import Phase

ORDER = Phase(shares={}, name="all", when_dry="redistribute")  # no mix: every source to its end


class PhaseState(msgspec.Struct):
    """How far a phase is: in the journal, and at its end in the manifest.

    Attributes:
        taken: source -> what it has given, in the phase's unit.
        dealt: source -> what it has given of its goal; without goals, in all.
        goals: source -> whole documents of it until the target, since it was last reckoned (at the start, and when a source
            ran dry); empty: shares as they are.
        largest: the largest document that was taken.
        out: sources that are dry or given up, in that order.
        notes: what happened, for people.
        ended: why the phase is over; empty: it is not.
        again: source -> how often it was begun again.
        before: source -> what it had given when it was begun again last.
        starts: split -> how many documents it had before this phase.
    """

    taken: dict[str, int] = {}
    dealt: dict[str, int] = {}
    goals: dict[str, int] = {}
    out: list[str] = []
    notes: list[str] = []
    ended: str = ""
    again: dict[str, int] = {}
    starts: dict[str, int] = {}
    largest: int = 0
    before: dict[str, int] = {}


def largest_remainder(shares: dict[str, Fraction], seats: int) -> dict[str, int]:
    """`seats` as whole numbers in proportion to `shares`: rounded down, the rest to the largest remainders, then the first named."""
    total = sum(shares.values(), Fraction())
    exact = {name: share * seats / total for name, share in shares.items()}
    whole = {name: int(value) for name, value in exact.items()}
    left = seats - sum(whole.values())
    for name in sorted(exact, key=lambda name: whole[name] - exact[name])[:left]:
        whole[name] += 1
    return whole


def chairman(weights: Sequence[int], given: Sequence[int], size: int = 1) -> int:
    """Whose turn is next, of those with these weights who were given so much in this very way, in turns of at most `size`.

    After any number n of turns of 1 each has had between floor and ceiling of n · weight / sum(weights), in whole numbers throughout.
    """
    total, after = sum(weights), sum(given) + size
    slack = max(1, 2 * len(weights) - 2)
    # Lack, times total and slack; whoever lacks a turn's 1 / slack or more may be next, the one whose deadline is nearest is.
    lack = [(weight * after - have * total) * slack for weight, have in zip(weights, given, strict=True)]
    able = [i for i, value in enumerate(lack) if value >= total * size and weights[i]]
    return able[least_by_weight([weights[i] for i in able], [(slack - 1) * total * size - lack[i] for i in able])]


def least_by_weight(weights: Sequence[int], values: Sequence[int]) -> int:
    """Where value / weight is the least, the first of equals: exactly, and many times as fast as by fractions."""
    best = 0
    for at in range(1, len(values)):
        if values[at] * weights[best] < values[best] * weights[at]:
            best = at
    return best


class Mix:
    """Deals out one phase.

    Args:
        phase: its shares name sources; of `ORDER` it is those in `names`, each to its end.
        names: all sources, in order.
        state: how far it is; changed in place.
    """

    def __init__(self, phase: Phase, names: Sequence[str], state: PhaseState) -> None:
        self._phase, self.state = phase, state
        self._in_order = phase is ORDER
        self._names = [name for name in names if self._in_order or name in phase.shares]
        self._shares = {name: Fraction(repr(share)) for name, share in phase.shares.items()}
        self._live = self._find_live()
        if not state.dealt:
            self._deal()
        self._weights = self._find_weights()

    @property
    def total(self) -> int:
        """What was taken so far, in the phase's unit."""
        return sum(self.state.taken.values())

    def _find_live(self) -> list[str]:
        return [name for name in self._names if name not in self.state.out]

    def _find_weights(self) -> list[int]:
        """Of the live ones, in whole numbers."""
        if self._in_order:
            return []
        if self.state.goals:
            return [self.state.goals[name] for name in self._live]
        scale = lcm(*(self._shares[name].denominator for name in self._live))
        return [int(self._shares[name] * scale) for name in self._live]

    def _deal(self) -> None:
        state, live = self.state, self._live
        state.dealt, state.goals = {name: state.taken.get(name, 0) for name in live}, {}
        if self._phase.target and self._phase.unit == "documents" and live:
            # What is still to come, so that all of the phase is as near to its shares as what came before allows.
            there = sum(count for name, count in state.taken.items() if name in state.out)
            fair = largest_remainder({name: self._shares[name] for name in live}, max(0, self._phase.target - there))
            owed = {name: Fraction(max(0, fair[name] - state.taken.get(name, 0))) for name in live}
            left = max(0, self._phase.target - self.total)
            state.goals = largest_remainder(owed, left) if any(owed.values()) else dict.fromkeys(live, 0)
            state.dealt = dict.fromkeys(live, 0)

    def next(self) -> str | None:
        """The name of the source to take from; None: the phase is over (`state.ended` says why)."""
        state, live = self.state, self._live
        if state.ended:
            return None
        if self._phase.target and self.total >= self._phase.target:
            state.ended = "target"
        elif not live:
            state.ended = "dry"
        if state.ended:
            return None
        if self._in_order:
            return live[0]
        return live[chairman(self._weights, [state.dealt[name] for name in live], max(1, state.largest))]

    def took(self, name: str, amount: int) -> None:
        """A document of `amount` units was kept."""
        self.state.taken[name] = self.state.taken.get(name, 0) + amount
        self.state.dealt[name] += amount
        self.state.largest = max(self.state.largest, amount)

    @property
    def unit(self) -> str:
        return self._phase.unit

    def may_repeat(self, name: str) -> bool:
        """Whether a dry source is to be read again: not where it gave nothing the last time (all of it validation text)."""
        fruitless = self.state.before.get(name) == self.state.taken.get(name, 0)
        return (
            self._phase.when_dry == "repeat" and self.state.again.get(name, 0) < self._phase.repeats and not fruitless
        )

    def repeat(self, name: str) -> None:
        """`name` begins again."""
        self.state.again[name] = self.state.again.get(name, 0) + 1
        self.state.before[name] = self.state.taken.get(name, 0)
        self.state.notes.append(f"{name} begun again at {self.total:,} {self._phase.unit}")

    def dry(self, name: str, why: str) -> None:
        """`name` gives nothing any more, be it dry or given up (then the phase goes on whatever is wished for dry ones)."""
        self.state.out.append(name)
        self._live = self._find_live()
        if not self._in_order:
            self.state.notes.append(f"{name} {why} at {self.total:,} {self._phase.unit}")
        if why == "dry" and self._phase.when_dry == "stop" and not self._in_order:
            self.state.ended = f"{name} dry"
        elif not self._in_order:
            self._deal()
            self._weights = self._find_weights()
        else:
            self.state.dealt.pop(name, None)
