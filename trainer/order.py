"""The order of data: a seeded permutation that any position can be asked of, and plain ranges that are skipped.

    position 0, 1, 2, …  ->  epoch = position // samples  ->  permutation of that epoch  ->  sample

A position is an integer that a checkpoint holds; seeking costs nothing.
"""

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
    """Which sample stands at a position. Each epoch is a permutation of its own.

    Args:
        samples: number of samples in the train split.
        seed: of the run.
    """

    def __init__(self, samples: int, seed: int) -> None:
        self.samples = samples
        self._seed = seed
        self._epoch = 0
        self._permutation = Permutation(samples, _mix(seed))

    def sample_at(self, position: int) -> int:
        epoch, index = divmod(position, self.samples)
        if epoch != self._epoch:
            self._epoch, self._permutation = epoch, Permutation(self.samples, _mix(self._seed) ^ epoch)
        return self._permutation[index]


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
