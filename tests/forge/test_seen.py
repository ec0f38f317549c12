"""The compact set against a `set`, and its memory."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adam.forge.documents import document_hash
from adam.forge.seen import Digests, Seen

HASH = st.integers(0, 2**64 - 1) | st.integers(0, 3) | st.integers(2**64 - 3, 2**64 - 1)


@settings(deadline=None, max_examples=200)
@given(st.lists(HASH, max_size=60), st.lists(HASH, max_size=20))
def test_it_has_what_was_added(added: list[int], others: list[int]) -> None:
    one, many = Seen(7), Seen(7)
    one.add(added)
    many.add_many(np.array(added, dtype=np.uint64))
    for seen in (one, many):
        assert all(seen.has_any((value,)) for value in added)
        assert seen.has_any(added) == bool(added)
    kept = {value or 1 for value in added}  # 0 is the mark of a free slot, and taken for 1
    assert len(one) == len(many) == len(kept)
    assert [one.has_any((value,)) for value in others] == [(value or 1) in kept for value in others]


def test_it_grows_and_keeps_everything() -> None:
    rng, seen = random.Random(0), Seen(4)
    values = [rng.getrandbits(64) for _ in range(3000)]
    seen.add(values)
    assert len(seen) == 3000
    assert all(seen.has_any((value,)) for value in values)
    assert not any(seen.has_any((rng.getrandbits(64),)) for _ in range(3000))
    assert seen.nbytes == 8 << 13


def test_more_than_there_is_room_for_is_refused() -> None:
    with pytest.raises(ValueError, match="64 hashes do not go into 64 slots"):
        Seen(6).add_many(np.arange(64, dtype=np.uint64) << np.uint64(50))


def test_five_million_documents_take_what_is_promised() -> None:
    """67 MB for exact duplicates: the array's own size, made without five million texts."""
    seen = Seen(16)
    while len(seen._slots) * 0.7 < 5_000_000:
        seen._grow()
    assert seen.nbytes == 67_108_864


def test_digests_are_told_apart_by_their_beginning() -> None:
    digests = Digests()
    for number in range(2000):
        digests.add(document_hash(str(number)))
    assert len(digests) == 2000
    assert document_hash("1999") in digests
    assert document_hash("2000") not in digests
