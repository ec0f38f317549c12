"""A set of 64-bit hashes in little memory: open addressing with linear probing (Knuth, volume 3, 6.4) in one array."""

from array import array
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

FULL = 0.7  # of the slots, from which on probing takes long
SMALLEST = 16  # bits of the number of slots


class Seen:
    """Grows by doubling. 5 million hashes take 67 MB, and half as much again while they are moved; a `set` of ints takes ten times that.

    Args:
        bits: of the number of slots.
    """

    def __init__(self, bits: int = SMALLEST) -> None:
        self._clear(bits)

    def _clear(self, bits: int) -> None:
        self._shift, self._mask, self._count = 64 - bits, (1 << bits) - 1, 0
        self._slots = array("Q", [0]) * (1 << bits)

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        return self._slots.itemsize * len(self._slots)

    def has_any(self, values: Iterable[int]) -> bool:
        slots, mask, shift = self._slots, self._mask, self._shift
        for value in values:
            slot, kept = value >> shift, value or 1  # 0 is a free slot
            while there := slots[slot]:
                if there == kept:
                    return True
                slot = slot + 1 & mask
        return False

    def add(self, values: Sequence[int]) -> None:
        while self._count + len(values) > FULL * len(self._slots):
            self._grow()
        slots, mask, shift = self._slots, self._mask, self._shift
        for value in values:
            slot, kept = value >> shift, value or 1
            while (there := slots[slot]) and there != kept:
                slot = slot + 1 & mask
            if not there:
                slots[slot] = kept
                self._count += 1

    def _grow(self) -> None:
        old = np.frombuffer(self._slots, dtype=np.uint64)
        self._clear(65 - self._shift)
        self.add_many(old[old != 0])

    def add_many(self, values: npt.NDArray[np.uint64]) -> None:
        """All at once; does not grow. Raises ValueError where there is no room for all."""
        if self._count + len(values) >= len(self._slots):
            raise ValueError(f"{len(values)} hashes do not go into {len(self._slots)} slots with {self._count}")
        slots = np.frombuffer(self._slots, dtype=np.uint64)
        at = (values >> np.uint64(self._shift)).astype(np.int64)
        kept = np.maximum(values, np.uint64(1))
        while len(at):
            free = slots[at] == 0
            slots[at[free]] = kept[free]  # of several for one slot the last one gets it
            taken = np.sort(at[free])
            self._count += int(np.count_nonzero(taken[1:] != taken[:-1])) + bool(len(taken))
            left = slots[at] != kept
            at, kept = at[left] + 1 & self._mask, kept[left]


class Digests:
    """A set of digests, of which the first 8 bytes are kept: of 5 million documents one is taken for another in 1 of 1.5 million runs."""

    def __init__(self) -> None:
        self._seen = Seen()

    def __len__(self) -> int:
        return len(self._seen)

    def __contains__(self, digest: bytes) -> bool:
        return self._seen.has_any((int.from_bytes(digest[:8], "big"),))

    def add(self, digest: bytes) -> None:
        self._seen.add((int.from_bytes(digest[:8], "big"),))
