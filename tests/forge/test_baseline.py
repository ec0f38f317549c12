"""The order-2 byte model against one written with dictionaries; other small pure parts."""

import math
import random
from collections import Counter

import pytest

from adam.forge import baseline
from adam.forge.baseline import order2_bits_per_byte
from adam.forge.documents import Document, document_hash, split_of


def plain(train: list[bytes], val: list[bytes]) -> float:
    """The same model, a byte at a time."""
    counts = [Counter(text[i : i + n + 1] for text in train for i in range(len(text) - n)) for n in range(3)]

    def probability(context: bytes, byte: int) -> float:
        lower = probability(context[1:], byte) if context else 1 / 256
        table = counts[len(context)]
        followers = {key[-1]: number for key, number in table.items() if key[:-1] == context}
        kinds, total = max(1, len(followers)), sum(followers.values())
        return (followers.get(byte, 0) + kinds * lower) / (total + kinds)

    bits = [-math.log2(probability(text[max(0, i - 2) : i], text[i])) for text in val for i in range(len(text))]
    return sum(bits) / len(bits)


@pytest.mark.parametrize("block", [1, 20, 1 << 22])
@pytest.mark.parametrize("sizes", [(300,), (1, 2, 3, 0, 50, 1, 1, 90, 2)])
def test_it_equals_the_plain_one(sizes, block: int, monkeypatch) -> None:
    """Whatever the documents' sizes: no context reaches over their borders, and no block's border is seen."""
    monkeypatch.setattr(baseline, "BLOCK", block)
    rng = random.Random(len(sizes))
    train, val = ([bytes(rng.choice(b"abcab\xff") for _ in range(size)) for size in sizes] for _ in range(2))
    assert order2_bits_per_byte(train, val) == pytest.approx(plain(train, val), rel=1e-5)


def test_of_a_large_corpus_the_first_part_is_counted(monkeypatch) -> None:
    monkeypatch.setattr(baseline, "BLOCK", 100)
    monkeypatch.setattr(baseline, "COUNT_BYTES", 200)
    first, rest = [b"the same " * 12] * 2, [bytes(range(256))] * 5
    assert order2_bits_per_byte(first + rest, first) == order2_bits_per_byte(first, first)


def test_it_knows_what_it_has_seen_and_is_nan_for_nothing() -> None:
    text = b"the same words again and again " * 200
    assert order2_bits_per_byte([text], [text]) < 1.5
    assert order2_bits_per_byte([text], [bytes(range(256))]) > 7
    assert math.isnan(order2_bits_per_byte([text], []))


def test_the_split_is_by_hash_with_the_share_asked_for() -> None:
    splits = Counter(split_of(Document("", id=document_hash(str(n))), 0.1) for n in range(5000))
    assert 400 < splits["val"] < 600


def test_a_group_is_on_one_side() -> None:
    splits = {split_of(Document("", group="a book", id=document_hash(str(n))), 0.5) for n in range(100)}
    assert len(splits) == 1
