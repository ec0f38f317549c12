"""Near duplicates: MinHash over word 5-grams (Broder 1997), found by bands (locality-sensitive hashing), and then looked at.

words ──> signature: 128 minima, a byte of each (b-bit minwise hashing, Li and König 2010) ──> bands: hashes of runs of it
              │                                                                              │
        how alike two documents are                                        which ones are worth being looked at
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from adam.forge.band_table import Bands
from adam.forge.words import Words, mixed

SHINGLE = 5  # words
PERMUTATIONS = 128
MOST_BANDS = 21  # what memory there is for
CAUGHT = 0.995  # share of pairs with exactly the asked similarity that are looked at, at least, from 0.7 on
FEWEST_ROWS = 3  # of fewer, too many pairs would be looked at
SEED = 20_260_101
ROW_BASE = np.uint64(0xD6E8FEB86659FD93)
BY_CHANCE = 1 / 256  # that two minima that differ have the same byte

Signatures = npt.NDArray[np.uint8]


class Shape(NamedTuple):
    """`bands` hashes a document, of `rows` values each."""

    rows: int
    bands: int

    def caught(self, similarity: float) -> float:
        """The share of pairs of a Jaccard similarity that have a band in common: a band of r is equal with probability s**r."""
        return float(1 - (1 - similarity**self.rows) ** self.bands)


def shape_of(similarity: float) -> Shape:
    """The bands with the most rows by which CAUGHT of the pairs with that similarity are looked at."""
    shapes = [Shape(rows, min(MOST_BANDS, PERMUTATIONS // rows)) for rows in range(PERMUTATIONS, FEWEST_ROWS, -1)]
    return next((shape for shape in shapes if shape.caught(similarity) >= CAUGHT), Shape(FEWEST_ROWS, MOST_BANDS))


def signatures_of(words: Words) -> tuple[Signatures, npt.NDArray[np.bool_]]:
    """(a byte of each minimum (documents, PERMUTATIONS), whether a document has a 5-gram at all (documents,))."""
    from rensa import RMinHash

    places = words.places(SHINGLE)
    offsets = np.searchsorted(places, words.bounds)
    grams = words.grams(places, SHINGLE)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(grams, offsets.astype(np.uint64), PERMUTATIONS, SEED)
    values = np.array(matrix.to_rows(), dtype=np.uint64).reshape(-1, PERMUTATIONS)
    return values.astype(np.uint8), np.diff(offsets) > 0


def bands_of(signatures: Signatures, shape: Shape) -> Bands:
    """The hashes of the bands: (documents, shape.bands)."""
    values = signatures[:, : shape.rows * shape.bands].reshape(-1, shape.bands, shape.rows)
    bands = np.broadcast_to(np.arange(1, shape.bands + 1, dtype=np.uint64), values.shape[:2])
    for row in range(shape.rows):
        bands = mixed(bands * ROW_BASE + values[:, :, row])
    return bands


def similarity(one: Signatures, other: Signatures) -> float:
    """An estimate of the Jaccard similarity of two documents by their signatures: off by 0.035 at 0.8 (one standard deviation)."""
    return float((np.count_nonzero(one == other) / PERMUTATIONS - BY_CHANCE) / (1 - BY_CHANCE))
