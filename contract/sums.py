"""The checksum of a tensor's bytes: at memory's speed on a CPU, and the same number from a GPU (`trainer.sums`).

The bytes, padded with zeros, are pages of 512 little-endian words of 64 bits; p_k is the sum of page k's words modulo 2^64.
The checksum is (sum of p_k, sum of (k + 1) p_k), both modulo 2^64, in hex: a Fletcher checksum (IEEE Trans. Comm. 30(1), 1982) over
pages. Every flipped bit changes it, and so does a page that is stale, lost or in another's place.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from adam.contract.errors import CheckpointError
from adam.contract.slots import PAGE_BYTES, SlotHead, TensorPlace

WORDS = PAGE_BYTES // 8
MASK = (1 << 64) - 1
BLOCK_BYTES = 1 << 22


class PageSum:
    """The checksum of bytes that come in blocks; every block but the last has a multiple of PAGE_BYTES."""

    def __init__(self) -> None:
        self._pages, self._plain, self._weighted = 0, 0, 0

    def add(self, block: bytes | memoryview) -> None:
        data = np.frombuffer(block, np.uint8)
        if rest := len(data) % PAGE_BYTES:
            data = np.concatenate([data, np.zeros(PAGE_BYTES - rest, np.uint8)])
        pages = data.view("<u8").reshape(-1, WORDS).sum(axis=1, dtype=np.uint64)
        places = np.arange(self._pages + 1, self._pages + 1 + len(pages), dtype=np.uint64)
        self._plain += int(pages.sum(dtype=np.uint64))
        self._weighted += int((pages * places).sum(dtype=np.uint64))
        self._pages += len(pages)

    def text(self) -> str:
        return spelt(self._plain, self._weighted)


def spelt(plain: int, weighted: int) -> str:
    return f"{plain & MASK:016x}{weighted & MASK:016x}"


def page_sum(blocks: Iterable[bytes | memoryview]) -> str:
    """The checksum of `blocks`, one after the other."""
    total = PageSum()
    for block in blocks:
        total.add(block)
    return total.text()


def check_sums(path: Path, head: SlotHead, places: dict[str, TensorPlace]) -> None:
    """Raise CheckpointError naming the first tensor of a slot's file whose bytes are not those that the trainer had."""
    if set(head.sums) != set(places):
        raise CheckpointError(f"{path}: its list of checksums does not match its tensors")
    for name, place in places.items():
        if page_sum(blocks_of(path, place)) != head.sums[name]:
            raise CheckpointError(f"{path}: the bytes of {name} are not those that were written")


def blocks_of(path: Path, place: TensorPlace) -> Iterator[bytes]:
    """The bytes of a tensor; fewer where the file is truncated."""
    with path.open("rb") as file:
        file.seek(place.start)
        left = place.end - place.start
        while left > 0 and (block := file.read(min(left, BLOCK_BYTES))):
            left -= len(block)
            yield block
