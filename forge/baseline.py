"""An order-2 byte model: what two bytes of context are worth, as a floor for any language model."""

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

BLOCK = 1 << 22  # bytes counted at once
COUNT_BYTES = 300_000_000  # of train: more of it changes little, and this much takes half a minute


Bytes = npt.NDArray[np.uint8]
Codes = npt.NDArray[np.int64]
Table = npt.NDArray[np.float32]
WHOLE = np.zeros(1, dtype=np.int64)  # the starts in a block that is one document


def order2_bits_per_byte(
    train: Iterable[bytes], val: Iterable[bytes], tick: Callable[[], object] = lambda: None
) -> float:
    """Bits per byte over `val` of a byte model counted on (the first COUNT_BYTES of) `train`.

    P(byte | two before) by Witten-Bell interpolation (IEEE Trans. Information Theory 37(4), 1991) down to order 1, order 0 and
    the uniform distribution. Documents are counted apart: a document's first bytes have shorter contexts. Gives nan for no bytes.
    `tick` is called for each block and document. Takes some 200 MB of memory whatever the size of the text.
    """
    pairs, triples = np.zeros(1 << 16, dtype=np.int64), np.zeros(1 << 24, dtype=np.int32)
    singles = np.zeros(256, dtype=np.int64)
    for data, starts in _blocks(train):
        singles += np.bincount(data, minlength=256)
        pairs += np.bincount(_codes(data, 2, starts), minlength=1 << 16)
        np.add.at(triples, _codes(data, 3, starts), 1)
        tick()
    tables = _interpolate(singles, pairs.reshape(256, 256), triples.reshape(1 << 16, 256))
    bits, count = 0.0, 0
    for document in val:
        data = np.frombuffer(document, dtype=np.uint8)
        if len(data):
            bits += _bits(data, *tables)
            count += len(data)
        tick()
    return bits / count if count else math.nan


def _blocks(documents: Iterable[bytes]) -> Iterator[tuple[Bytes, Codes]]:
    """(bytes, where documents begin) of some megabytes of whole documents at a time."""
    block: list[bytes] = []
    size = taken = 0
    for document in documents:
        block.append(document)
        size += len(document)
        if size >= BLOCK:
            yield _block(block)
            taken, size, block = taken + size, 0, []
            if taken >= COUNT_BYTES:
                return
    if size:
        yield _block(block)


def _block(documents: list[bytes]) -> tuple[Bytes, Codes]:
    starts = np.cumsum([0, *map(len, documents[:-1])], dtype=np.int64)
    return np.frombuffer(b"".join(documents), dtype=np.uint8), starts


def _codes(data: Bytes, order: int, starts: Codes) -> Codes:
    """Each run of `order` bytes as a number; runs across the start of a document are left out."""
    codes = np.zeros(max(0, len(data) - order + 1), dtype=np.int64)
    for back in range(order):
        codes = codes << 8 | data[back : back + len(codes)]
    keep = np.ones(len(codes), dtype=bool)
    for back in range(1, order):
        across = starts - back
        keep[across[(across >= 0) & (across < len(codes))]] = False
    return codes[keep]


def _interpolate(
    singles: npt.NDArray[np.int64], pairs: npt.NDArray[np.int64], triples: npt.NDArray[np.int32]
) -> tuple[Table, Table, Table]:
    """P of order 0 (256,), 1 (256, 256) and 2 (65536, 256)."""
    zero = _witten_bell(singles[None], np.full((1, 256), 1 / 256, dtype=np.float32))[0]
    one = _witten_bell(pairs, zero[None])
    two = np.empty(triples.shape, dtype=np.float32)
    for first in range(256):  # row block `first`: contexts (first, second) fall back to (second)
        rows = slice(first * 256, first * 256 + 256)
        two[rows] = _witten_bell(triples[rows], one)
    return zero, one, two


def _witten_bell(counts: npt.NDArray[np.integer], lower: Table) -> Table:
    """(count + kinds · lower) / (total + kinds), row by row; rows without counts are `lower`."""
    total = counts.sum(axis=1, keepdims=True)
    kinds = np.maximum((counts > 0).sum(axis=1, keepdims=True), 1)
    mixed: Table = ((counts + kinds * lower) / (total + kinds)).astype(np.float32)
    return mixed


def _bits(data: npt.NDArray[np.uint8], zero: Table, one: Table, two: Table) -> float:
    probability = [zero[data[:1]], one[data[:1], data[1:2]] if len(data) > 1 else zero[:0]]
    if len(data) > 2:
        probability.append(two[_codes(data[:-1], 2, WHOLE), data[2:]])
    return float(-np.log2(np.concatenate(probability).astype(np.float64)).sum())
