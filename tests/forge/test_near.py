"""Near duplicates: found by their similarity, remembered on disk, and never on both sides of the split."""

import os
import random

import numpy as np
import pytest

from adam.contract.errors import DataError
from adam.forge.near import PERMUTATIONS, NearIndex, bands_of, rows_of
from adam.forge.words import Words

VOCABULARY = [f"w{n}" for n in range(3000)]


def varied(rng: random.Random, count: int = 300) -> list[str]:
    return rng.choices(VOCABULARY, k=count)


def changed(words: list[str], rng: random.Random, changes: int) -> list[str]:
    """The words with some replaced: each takes five 5-grams with it."""
    words = list(words)
    for at in rng.sample(range(len(words)), changes):
        words[at] = rng.choice(VOCABULARY)
    return words


def similarity(first: list[str], second: list[str]) -> float:
    one, other = ({tuple(words[i : i + 5]) for i in range(len(words) - 4)} for words in (first, second))
    return len(one & other) / len(one | other)


@pytest.mark.parametrize("asked", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
def test_nine_of_ten_pairs_of_that_similarity_are_found(asked: float) -> None:
    rows = rows_of(asked)
    assert 1 - (1 - asked**rows) ** (PERMUTATIONS // rows) >= 0.9
    assert 1 - (1 - asked ** (rows + 1)) ** (PERMUTATIONS // (rows + 1)) < 0.9


def test_similar_texts_share_a_band_and_others_do_not() -> None:
    rng, rows = random.Random(4), rows_of(0.8)
    found: dict[str, list[bool]] = {"near": [], "far": [], "other": []}
    for _ in range(150):
        words = varied(rng)
        near, far, other = changed(words, rng, 3), changed(words, rng, 60), varied(rng)
        assert similarity(words, near) > 0.9
        assert similarity(words, far) < 0.45
        bands, has = bands_of(Words([" ".join(text) for text in (words, near, far, other)]), rows)
        assert has.all()
        for name, row in zip(found, bands[1:], strict=True):
            found[name].append(bool(set(bands[0].tolist()) & set(row.tolist())))
    assert np.mean(found["near"]) > 0.98
    assert np.mean(found["far"]) < 0.05
    assert not any(found["other"])


def test_too_short_a_text_has_no_bands() -> None:
    _, has = bands_of(Words(["four words are few", "", "five words are just enough"]), 8)
    assert has.tolist() == [False, False, True]


def rows_for(count: int, bands: int = 16) -> list[bytes]:
    values = np.random.default_rng(0).integers(1, 2**64, (count, bands), dtype=np.uint64)
    return [row.astype("<u8").tobytes() for row in values]


def test_the_index_is_the_same_after_a_kill_and_after_it_grew(tmp_path) -> None:
    path, ticks = tmp_path / "bands", []
    index = NearIndex(path, 0, 16, lambda: None)
    rows = rows_for(6000)
    for row in rows[:4000]:
        assert not index.has(row)
        index.add(row)
    assert index.sync() == 4000
    for row in rows[4000:4100]:
        index.add(row)  # behind the journal's back
    index.close()
    again = NearIndex(path, 4000, 16, lambda: ticks.append(1))
    assert ticks
    assert path.stat().st_size == 4000 * 128
    assert all(again.has(row) for row in rows[:4000])
    assert not any(again.has(row) for row in rows[4000:])
    before = again.nbytes
    for row in rows[4000:]:
        again.add(row)
    assert again.nbytes == 2 * before  # 96,000 bands go into more than 2**16 slots
    assert all(again.has(row) for row in rows)
    assert again.has(rows[7][:8] + rows_for(1)[0][8:])  # one band is enough
    again.close()


def test_bands_that_are_gone_are_named(tmp_path) -> None:
    path = tmp_path / "bands"
    path.write_bytes(os.urandom(1000))
    with pytest.raises(DataError, match="shorter than the bands of 8 documents"):
        NearIndex(path, 8, 16, lambda: None)
