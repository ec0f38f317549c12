"""Which documents had a band: open addressing with linear probing (Knuth, volume 3, 6.4) in one array of 32-bit slots.

A slot holds the number of a document and, above it, as many bits of the band's hash as are left: what is found may be wrong, and
whoever asks looks at the document itself.
"""

from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FULL = 0.8  # of the slots; fuller, probing takes long
SMALLEST = 16  # bits of the number of slots

Bands = npt.NDArray[np.uint64]


class BandTable:
    """Can't grow: whoever adds looks at `documents` before.

    Args:
        least: documents that it must have room for.
        bands: hashes a document, at most.

    With 21 bands 5 million documents take 537 MB.
    """

    def __init__(self, least: int, bands: int) -> None:
        bits = SMALLEST
        while int(FULL * (1 << bits) / bands) < least:
            bits += 1
        self.documents = int(FULL * (1 << bits) / bands)
        self._shift, self._mask = 64 - bits, (1 << bits) - 1
        self._number_bits = (self.documents + 1).bit_length()
        self._kept = (1 << 32 - self._number_bits) - 1  # bits of a hash that a slot has
        self._slots = array("I", [0]) * (1 << bits)

    @property
    def nbytes(self) -> int:
        return self._slots.itemsize * len(self._slots)

    def find(self, band: int) -> list[int]:
        """Numbers of documents that may have this band; all that have it are among them."""
        slots, mask, bits = self._slots, self._mask, self._number_bits
        slot, kept, found = band >> self._shift, band & self._kept, []
        while there := slots[slot]:
            if there >> bits == kept:
                found.append((there & (1 << bits) - 1) - 1)
            slot = slot + 1 & mask
        return found

    def add(self, number: int, bands: Sequence[int]) -> None:
        slots, mask = self._slots, self._mask
        for band in bands:
            slot = band >> self._shift
            while slots[slot]:
                slot = slot + 1 & mask
            slots[slot] = (band & self._kept) << self._number_bits | number + 1

    def add_many(self, numbers: npt.NDArray[np.int64], bands: Bands) -> None:
        """As `add` of each band (bands,) to its document (bands,), all at once."""
        slots = np.frombuffer(self._slots, dtype=np.uint32)
        at = (bands >> np.uint64(self._shift)).astype(np.int64)
        entries = ((bands & np.uint64(self._kept)) << np.uint64(self._number_bits)).astype(np.uint32)
        entries |= (numbers + 1).astype(np.uint32)
        while len(at):
            free = slots[at] == 0
            slots[at[free]] = entries[free]  # of several for one slot the last one gets it
            left = slots[at] != entries
            at, entries = at[left] + 1 & self._mask, entries[left]
