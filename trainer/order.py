"""The order of data: phase after phase, in each a seeded permutation that any position can be asked of; and plain ranges that are skipped.

    position 0, 1, 2, …  ->  epoch = position // samples  ->  phase  ->  its permutation in that epoch  ->  sample

A position is an integer that a checkpoint holds; seeking costs nothing. Each epoch has all phases again, from the first one on.
"""

from bisect import bisect_right
from collections.abc import Sequence

_MASK = (1 << 64) - 1
_ROUNDS = 6


def _mix(value: int) -> int:
    """64 bits to 64 well-mixed bits (the finaliser of SplitMix64: Steele, Lea, Flood, OOPSLA 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


class Permutation:
    """A permutation of range(size) drawn by `seed`: a Feistel network with cycle walking.

    The network permutes the next power of four; a value outside of the range is sent through again until it falls inside,
    which keeps it a permutation (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002).
    """

    def __init__(self, size: int, seed: int) -> None:
        if size < 1:
            raise ValueError(f"a permutation of {size} items")
        self.size = size
        self._half = max(1, ((size - 1).bit_length() + 1) // 2)
        self._low = (1 << self._half) - 1
        self._keys = [_mix(_mix(seed & _MASK) ^ _mix(round_number)) for round_number in range(_ROUNDS)]

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self.size:
            raise IndexError(f"{index} of {self.size}")
        value = self._network(index)
        while value >= self.size:
            value = self._network(value)
        return value

    def _network(self, value: int) -> int:
        left, right = value >> self._half, value & self._low
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & self._low)
        return left << self._half | right


class DataOrder:
    """Which sample stands at a position. In each epoch each phase is a permutation of its own samples, the first phase's first.

    Args:
        samples: number of samples in the train split.
        seed: of the run.
        segments: the first sample of each phase, from 0 up; every phase has samples.
    """

    def __init__(self, samples: int, seed: int, segments: Sequence[int] = (0,)) -> None:
        ends = [*segments[1:], samples]
        if not segments or segments[0] != 0 or any(end <= first for first, end in zip(segments, ends, strict=True)):
            raise ValueError(f"phases that begin at {segments} of {samples} samples")
        self.samples = samples
        self._seed, self._firsts, self._ends = seed, segments, ends
        self._drawn = (0, 0)  # epoch and phase of the permutation at hand
        self._permutation = self._draw(0, 0)

    def sample_at(self, position: int) -> int:
        epoch, index = divmod(position, self.samples)
        phase = bisect_right(self._firsts, index) - 1
        if self._drawn != (epoch, phase):
            self._drawn, self._permutation = (epoch, phase), self._draw(epoch, phase)
        first = self._firsts[phase]
        return first + self._permutation[index - first]

    def _draw(self, epoch: int, phase: int) -> Permutation:
        # The first phase's seed, and so a run without phases, is as it was before there were any.
        return Permutation(self._ends[phase] - self._firsts[phase], _mix(self._seed) ^ epoch ^ phase << 32)


def take(position: int, count: int, skip: Sequence[tuple[int, int]]) -> tuple[list[int], int]:
    """The next `count` positions from `position` on that lie in no range of `skip`, and the position behind them.

    `skip` holds half-open ranges in any order; they may overlap. The position that is given back never lies in a range.
    """
    taken: list[int] = []
    ranges = sorted(skip)
    while True:
        position = _jump(position, ranges)
        if len(taken) == count:
            return taken, position
        taken.append(position)
        position += 1


def _jump(position: int, ranges: list[tuple[int, int]]) -> int:
    for start, end in ranges:
        if start <= position < end:
            position = end
    return position
