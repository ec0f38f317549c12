"""Near duplicates: who is taken for one, by planted similarities; and an index that is the same after a kill."""

import os
import random

import numpy as np
import pytest

from adam.contract.errors import DataError
from adam.forge import near_index
from adam.forge.band_table import BandTable
from adam.forge.documents import Document
from adam.forge.near import MOST_BANDS, PERMUTATIONS, Shape, bands_of, shape_of, signatures_of
from adam.forge.near_index import CROWD, NearIndex
from adam.forge.words import Words

VOCABULARY = [f"w{n}" for n in range(30_000)]
GRAMS = 500
SHAPE = shape_of(0.8)


def pair(rng: random.Random, changes: int) -> tuple[str, str, float]:
    """Two texts and their Jaccard similarity: each change takes five 5-grams with it."""
    one = rng.choices(VOCABULARY, k=GRAMS + 4)
    other = list(one)
    for number in range(changes):
        other[4 + number * (GRAMS - 8) // changes] = f"new{rng.random()}"
    first, second = ({tuple(words[i : i + 5]) for i in range(GRAMS)} for words in (one, other))
    return " ".join(one), " ".join(other), len(first & second) / len(first | second)


def signed(texts: list[str], shape: Shape = SHAPE) -> list[tuple[bytes, bytes]]:
    """(signature, bands) of each."""
    signatures, known = signatures_of(Words(texts))
    assert known.all()
    bands = bands_of(signatures, shape).astype("<u8")
    return [(one.tobytes(), other.tobytes()) for one, other in zip(signatures, bands, strict=True)]


def add(index: NearIndex, one: tuple[bytes, bytes], path: str = "p", record: int = 0, split: str = "train") -> None:
    found = index.find(*one, 1.1)
    index.add(Document("", path=path, record=record, split=split), *one, found.free)


@pytest.fixture
def opened(tmp_path):
    def open_index(**state: int) -> NearIndex:
        return NearIndex(tmp_path, state, SHAPE, lambda: None)

    return open_index


@pytest.mark.parametrize("asked", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
def test_pairs_of_the_asked_similarity_are_looked_at(asked: float) -> None:
    shape = shape_of(asked)
    assert shape.rows * shape.bands <= PERMUTATIONS
    assert shape.bands <= MOST_BANDS
    assert shape.caught(asked) >= (0.995 if asked >= 0.7 else 0.93)


@pytest.mark.parametrize(
    ("changes", "similarity", "least", "most"),
    [(45, 0.38, 0, 0), (27, 0.57, 0, 0), (18, 0.69, 0, 0.03), (15, 0.74, 0, 0.1), (9, 0.83, 0.6, 1), (7, 0.87, 0.93, 1), (3, 0.94, 1, 1)],
)  # fmt: skip
def test_who_is_dropped_for_a_similarity_of_eight_tenths(opened, changes, similarity, least, most) -> None:
    """Of 200 pairs of about one similarity: neither many below 0.8, nor few above it."""
    rng, index, dropped = random.Random(changes), opened(), 0
    for _ in range(10):
        texts: list[str] = []
        for _ in range(20):
            *both, there = pair(rng, changes)
            assert abs(there - similarity) < 0.01
            texts += both
        known = signed(texts)
        for one, other in zip(known[::2], known[1::2], strict=True):
            add(index, one)
            dropped += bool(index.find(*other, 0.8).alike)
    index.close()
    assert least <= dropped / 200 <= most


def test_the_most_similar_one_is_named(opened) -> None:
    rng, index = random.Random(0), opened()
    words = rng.choices(VOCABULARY, k=GRAMS)
    for number, changes in enumerate((20, 4, 12, 4)):
        changed = list(words)
        for at in range(changes):
            changed[at * 20 + number] = f"other{at}-{number}"
        add(index, signed([" ".join(changed)])[0], f"/a/{number}\n.txt", 10 + number, "val" if number == 1 else "train")
    ((best, row, split), *rest), _ = index.find(*signed([" ".join(words)])[0], 0.5)
    assert 0.85 < best < 1
    assert (row, split) in ((1, "val"), (3, "train"))
    assert index.called(row) == (f"/a/{row}\n.txt", 10 + row)
    assert [one.similarity for one in rest] == sorted((one.similarity for one in rest), reverse=True)
    assert len(rest) == 3
    index.close()


def test_the_index_is_the_same_after_a_kill_and_after_it_grew(opened, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(near_index, "READ_ROWS", 700)
    rng = random.Random(1)
    known = signed([pair(rng, 1)[0] for _ in range(40)])
    # Signatures that nobody has are as good as any, and there must be more than a table of the smallest size takes.
    random_ones = np.random.default_rng(0).integers(0, 256, (4000, PERMUTATIONS), dtype=np.uint8)
    bands = bands_of(random_ones, SHAPE).astype("<u8")
    known += [(one.tobytes(), other.tobytes()) for one, other in zip(random_ones, bands, strict=True)]
    index = opened()
    for number, one in enumerate(known[:2000]):
        add(index, one, f"{number // 3}", number % 3, "val" if number % 7 == 0 else "train")
    state, size = index.sync(), index.nbytes
    for one in known[2000:2100]:
        add(index, one)  # behind the journal's back
    index.close()
    again, whole = opened(**state), index
    assert (tmp_path / "near.rows").stat().st_size == 2000 * near_index.ROW.itemsize
    for number, one in enumerate(known):
        found = again.find(*one, 0.9).alike
        assert [(alike.row, alike.split) for alike in found] == (
            [(number, "val" if number % 7 == 0 else "train")] if number < 2000 else []
        )
    assert again.called(1999) == ("666", 1)
    for one in known[2000:]:
        add(again, one)
    whole = again
    assert whole.nbytes == 2 * size
    assert all(whole.find(*one, 0.9).alike[0].row == number for number, one in enumerate(known))
    whole.close()


def test_a_crowd_with_one_band_is_not_looked_at_in_whole_and_is_the_same_after_a_kill(opened) -> None:
    """A preamble that thousands share: CROWD of them are remembered by its band, and all by their others."""
    signatures = np.random.default_rng(0).integers(0, 256, (50, PERMUTATIONS), dtype=np.uint8)
    signatures[:, : SHAPE.rows] = 7
    bands = bands_of(signatures, SHAPE).astype("<u8")
    known = [(one.tobytes(), other.tobytes()) for one, other in zip(signatures, bands, strict=True)]
    index = opened()
    for one in known[:40]:
        add(index, one)
    looked = {alike.row for alike in index.find(*known[45], -1.0).alike}
    assert looked == set(range(CROWD))
    again = opened(**index.sync())
    index.close()
    assert {alike.row for alike in again.find(*known[45], -1.0).alike} == looked
    assert all(again.find(*one, 0.99).alike[0].row == number for number, one in enumerate(known[:40]))
    again.close()


def test_five_million_documents_take_what_is_promised() -> None:
    """537 MB of memory and 760 MB of disk."""
    bits = BandTable(5_000_000, MOST_BANDS)
    assert bits.nbytes == 536_870_912
    assert near_index.ROW.itemsize * 5_000_000 == 760_000_000


def test_too_short_a_text_has_no_signature() -> None:
    _, known = signatures_of(Words(["four words are few", "", "five words are just enough"]))
    assert known.tolist() == [False, False, True]


@pytest.mark.parametrize("name", ["near.rows", "near.paths"])
def test_files_that_are_short_are_named(opened, tmp_path, name) -> None:
    index = opened()
    add(index, signed([pair(random.Random(0), 1)[0]])[0])
    state = index.sync()
    index.close()
    os.truncate(tmp_path / name, 2)
    with pytest.raises(
        DataError, match=f"{name} is shorter than the {state['near_paths'] if 'paths' in name else 152} b"
    ):
        opened(**state)
