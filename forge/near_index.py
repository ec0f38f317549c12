"""The signatures of the documents that were kept, in a file, and a table of their bands in memory: which documents is this one like?

`near.rows` has a row for each document, `near.paths` the paths that rows point into. The table is made of the rows: after a kill, and
where it has to grow.
"""

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from adam.contract.errors import DataError
from adam.forge.appended import Appended
from adam.forge.band_table import BandTable
from adam.forge.documents import Document
from adam.forge.near import PERMUTATIONS, Shape, bands_of, similarity

ROWS, PATHS = "near.rows", "near.paths"
ROW = np.dtype([
    ("signature", "u1", PERMUTATIONS), ("bands", "<u8"), ("path", "<u8"), ("record", "<u4"), ("val", "<u4"),
])  # fmt: skip
FACTS = struct.Struct("<QQII")  # of a row behind its signature: a bit for each band that is in the table, …
CROWD = (
    16  # documents with one band that are remembered by it: more share a preamble, and would all be looked at each time
)
READ_ROWS = 50_000
LONGEST_PATH = 1 << 16


class Alike(NamedTuple):
    """A document that was kept: its row, how similar it is (an estimate), and its split."""

    similarity: float
    row: int
    split: str


class Found(NamedTuple):
    """What was kept that is like a document, the most similar first; `free`: a bit for each of its bands without a crowd."""

    alike: list[Alike]
    free: int


class NearIndex:
    """5 million documents take 537 MB of memory, and 760 MB of disk until the shards are made.

    Args:
        work: the directory of the two files.
        state: what `sync` said: what is behind that is cut off; empty: nothing is kept yet.
        tick: a sign of life while rows are read.

    Raises DataError where a file has less.
    """

    def __init__(self, work: Path, state: Mapping[str, int], shape: Shape, tick: Callable[[], object]) -> None:
        check_files(work, state)
        self._shape, self._tick = shape, tick
        self._count = state.get("near", 0)
        self._rows = Appended(work / ROWS, self._count * ROW.itemsize)
        self._paths = Appended(work / PATHS, state.get("near_paths", 0))
        self._last: dict[str, tuple[str, int]] = {}  # source -> its last path, and where that is
        self._make_table()

    def _make_table(self) -> None:
        self._table = BandTable(1, 1)  # the old one goes before the new one is made
        self._table = BandTable(self._count + 1, self._shape.bands)
        for first in range(0, self._count, READ_ROWS):
            size = min(READ_ROWS, self._count - first) * ROW.itemsize
            rows = np.frombuffer(self._rows.read(size, first * ROW.itemsize), dtype=ROW)
            places = np.arange(self._shape.bands, dtype=np.uint64)
            inside = (rows["bands"][:, None] >> places & np.uint64(1)).astype(bool)
            numbers = np.repeat(np.arange(first, first + len(rows)), inside.sum(axis=1))
            self._table.add_many(numbers, bands_of(rows["signature"], self._shape)[inside])
            self._tick()

    def find(self, signature: bytes, bands: bytes, least: float) -> Found:
        """Documents that share a band with this one and are at least so similar. `bands`: uint64, little endian."""
        rows: dict[int, bytes] = {}
        partners: set[int] = set()
        free, width = 0, self._shape.rows
        for place, band in enumerate(memoryview(bands).cast("Q")):
            own, bit, crowd = signature[place * width : (place + 1) * width], 1 << place, 0
            for number in self._table.find(band):
                if number not in rows:
                    rows[number] = self._row(number)
                row = rows[number]
                if row[place * width : (place + 1) * width] == own and FACTS.unpack_from(row, PERMUTATIONS)[0] & bit:
                    partners.add(number)
                    crowd += 1
            free |= bit if crowd < CROWD else 0
        found = [self._alike(signature, number, rows[number]) for number in partners]
        return Found(sorted((one for one in found if one.similarity >= least), key=lambda one: (-one[0], one[1])), free)

    @staticmethod
    def _alike(signature: bytes, number: int, row: bytes) -> Alike:
        own, other = (np.frombuffer(data, dtype=np.uint8, count=PERMUTATIONS) for data in (signature, row))
        return Alike(similarity(own, other), number, "val" if FACTS.unpack_from(row, PERMUTATIONS)[3] else "train")

    def _row(self, number: int) -> bytes:
        return self._rows.read(ROW.itemsize, number * ROW.itemsize)

    def add(self, document: Document, signature: bytes, bands: bytes, free: int) -> None:
        """Remember a document that is kept, with its split, by those of its bands that `find` said are free."""
        facts = FACTS.pack(free, self._path(document), min(document.record, 2**32 - 1), document.split == "val")
        self._rows.append(signature + facts)
        self._count += 1
        if self._count > self._table.documents:
            self._make_table()  # this one among them
            return
        hashes = memoryview(bands).cast("Q")
        self._table.add(self._count - 1, [hashes[place] for place in range(len(hashes)) if free >> place & 1])

    def _path(self, document: Document) -> int:
        path, at = self._last.get(document.source, ("", 0))
        if path != document.path:
            at = self._paths.size
            self._paths.append(msgspec.json.encode(document.path) + b"\n")
            self._last[document.source] = document.path, at
        return at

    def called(self, row: int) -> tuple[str, int]:
        """(path, record) of a document that was kept."""
        _, at, record, _ = FACTS.unpack_from(self._row(row), PERMUTATIONS)
        line = self._paths.read(LONGEST_PATH, at).partition(b"\n")[0]
        return msgspec.json.decode(line, type=str), record

    def sync(self) -> dict[str, int]:
        """Make the files durable, before the journal that counts on them; what it keeps of them."""
        for file in (self._rows, self._paths):
            file.sync()
        return {"near": self._count, "near_paths": self._paths.size}

    def close(self) -> None:
        self._rows.close()
        self._paths.close()

    @property
    def nbytes(self) -> int:
        return self._table.nbytes


def check_files(work: Path, state: Mapping[str, int]) -> None:
    """Raise DataError where the files of an index have less than its `state` says."""
    sizes = {ROWS: state.get("near", 0) * ROW.itemsize, PATHS: state.get("near_paths", 0)}
    for name, size in sizes.items():
        there = (work / name).stat().st_size if (work / name).exists() else 0
        if there < size:
            raise DataError(f"{work / name} is shorter than the {size} bytes that its journal says")
