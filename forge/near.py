"""Near duplicates: MinHash over word 5-grams (Broder 1997), and bands of it in a set (locality-sensitive hashing).

A document is one where any band is that of a document before it. Signatures are rensa's; bands of kept documents are appended to
a file, from which the set is made again: after a kill, and where it has to grow.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from adam.contract.errors import DataError
from adam.forge.seen import FULL, SMALLEST, Seen
from adam.forge.words import Words, mixed

SHINGLE = 5  # words
PERMUTATIONS = 128
CAUGHT = 0.9  # share of pairs with exactly the asked similarity that are found, at least
SEED = 20_260_101
READ_ROWS = 50_000
ROW_BASE = np.uint64(0xD6E8FEB86659FD93)

Bands = npt.NDArray[np.uint64]


def rows_of(similarity: float) -> int:
    """Values of a band: the most with which a pair of that Jaccard similarity shares one of the bands in CAUGHT of all cases.

    A band of r values is equal with probability s**r, one of b bands with 1 - (1 - s**r)**b.
    """
    rows = 1
    while 1 - (1 - similarity ** (rows + 1)) ** (PERMUTATIONS // (rows + 1)) >= CAUGHT:
        rows += 1
    return rows


def bands_of(words: Words, rows: int) -> tuple[Bands, npt.NDArray[np.bool_]]:
    """(hashes of the bands (documents, PERMUTATIONS // rows), whether a document has a 5-gram at all (documents,))."""
    from rensa import RMinHash

    places = words.places(SHINGLE)
    offsets = np.searchsorted(places, words.bounds)
    grams = words.grams(places, SHINGLE)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(grams, offsets.astype(np.uint64), PERMUTATIONS, SEED)
    count = PERMUTATIONS // rows
    values = np.array(matrix.to_rows(), dtype=np.uint64).reshape(-1, PERMUTATIONS)[:, : count * rows]
    values = values.reshape(-1, count, rows)
    bands = np.broadcast_to(np.arange(1, count + 1, dtype=np.uint64), values.shape[:2])
    for row in range(rows):
        bands = mixed(bands * ROW_BASE + values[:, :, row])
    return bands, np.diff(offsets) > 0


class NearIndex:
    """The bands of all documents that were kept, in memory and in the file at `path`.

    Args:
        rows: documents that the file has bands of; what is behind them is cut off.
        bands: hashes a document.
        tick: a sign of life while the file is read.

    With 16 bands 5 million documents take 537 MB of memory, and 640 MB of disk until the shards are made.
    Raises DataError where the file has fewer.
    """

    def __init__(self, path: Path, rows: int, bands: int, tick: Callable[[], object]) -> None:
        self._path, self._bands, self._tick, self._rows = path, bands, tick, rows
        self._file = path.open("ab")
        if self._file.tell() < rows * bands * 8:
            self._file.close()
            raise DataError(f"{path} is shorter than the bands of {rows} documents")
        os.truncate(path, rows * bands * 8)
        self._read()

    def _read(self) -> None:
        """Make the set anew, as large as it has to be: twice the size where it was full."""
        bits = max(SMALLEST, int((self._rows + 1) * self._bands / FULL).bit_length())
        self._seen = Seen(1, short=True)  # the old one goes before the new one is made
        self._seen = Seen(bits, short=True)
        self._file.flush()
        with self._path.open("rb") as file:
            while data := file.read(READ_ROWS * self._bands * 8):
                self._seen.add_many(np.frombuffer(data, dtype="<u8"))
                self._tick()

    def has(self, bands: bytes) -> bool:
        """Whether a document that was kept has one of these bands (uint64, little endian)."""
        return self._seen.has_any(memoryview(bands).cast("Q"))

    def add(self, bands: bytes) -> None:
        self._file.write(bands)
        self._rows += 1
        if self._seen.full:
            self._read()  # these among them
        else:
            self._seen.add(memoryview(bands).cast("Q"))

    def sync(self) -> int:
        """Make the bands durable, before the journal that counts on them; the documents that they are of."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._rows

    def close(self) -> None:
        self._file.close()

    @property
    def nbytes(self) -> int:
        return self._seen.nbytes
