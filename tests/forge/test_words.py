"""Words as numbers, against words as words."""

import random
import subprocess
import sys
import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adam.forge.batch import Batch, stripped
from adam.forge.repetition import ngram_shares, repeated_lines, repeated_parts, repeated_words
from adam.forge.words import IDEOGRAPHS, Words, WordSet

TEXT = st.text(st.sampled_from("abA é\u0301ß漢字か한, 1_\n-\U00020001\U0001f600ا"), max_size=30)


def plain_words(text: str) -> list[str]:
    found, word = [], ""
    for char in text + " ":
        inside = char.isalnum() or unicodedata.category(char).startswith("M")
        alone = any(first <= ord(char) < behind for first, behind in IDEOGRAPHS)
        if word and (alone or not inside):
            found.append(word)
            word = ""
        if inside and alone:
            found.append(char)
        elif inside:
            word += char.lower()[0]
    return found


@settings(deadline=None, max_examples=300)
@given(st.lists(TEXT, min_size=1, max_size=5))
def test_words_are_those_of_a_plain_loop(texts: list[str]) -> None:
    words, expected = Words(texts), [plain_words(text) for text in texts]
    flat = [word for document in expected for word in document]
    assert np.diff(words.bounds).tolist() == [len(document) for document in expected]
    assert words.lengths.tolist() == [len(word) for word in flat]
    # Equal where and only where the words are.
    assert len(set(zip(flat, words.hashes.tolist(), strict=True))) == len(set(flat)) == len(set(words.hashes.tolist()))


@settings(deadline=None, max_examples=300)
@given(st.lists(TEXT, min_size=1, max_size=5))
def test_letters_are_those_of_a_plain_loop(texts: list[str]) -> None:
    parts = [text.split() for text in texts]
    letters, solid, runs, alpha = (values.tolist() for values in Words(texts).letters)
    assert letters == [sum(map(str.isalpha, text)) for text in texts]
    assert solid == [sum(map(len, part)) for part in parts]
    assert runs == [len(part) for part in parts]
    assert alpha == [sum(any(map(str.isalpha, word)) for word in part) for part in parts]


@settings(deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=4), st.integers(1, 4))
def test_a_document_has_the_same_numbers_in_any_company(texts: list[str], n: int) -> None:
    together = Words(texts)
    for number, text in enumerate(texts):
        alone, part = Words([text]), slice(*together.bounds[number : number + 2])
        assert alone.hashes.tolist() == together.hashes[part].tolist()
        places = together.places(n)
        mine = places[(places >= part.start) & (places < part.stop)]
        assert together.grams(mine, n).tolist() == alone.grams(alone.places(n), n).tolist()
        assert len(mine) == max(0, part.stop - part.start - n + 1)


def test_hashes_are_the_same_in_another_process() -> None:
    text = "The same words été 漢字 everywhere"
    code = f"from adam.forge.words import Words; print(Words([{text!r}]).hashes.tolist())"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == str(Words([text]).hashes.tolist())


def test_a_set_of_words_finds_its_own() -> None:
    words = Words([" ".join(f"w{n}" for n in range(5000))])
    wanted = WordSet(words.hashes[::7])
    assert wanted.find(words.hashes).tolist() == list(range(0, 5000, 7))
    assert WordSet(words.hashes[:0]).find(words.hashes).tolist() == []


def plain_shares(text: str) -> dict[int, float]:
    """Gopher's measures by dictionaries, a document at a time."""
    words, shares = plain_words(text), {}
    total = max(1, sum(map(len, words)))
    for n in range(2, 11):
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        if n < 5:
            counts = Counter(grams)
            most = max(counts.values(), default=0)
            longest = max((sum(map(len, gram)) for gram, count in counts.items() if count == most), default=0)
            shares[n] = most * longest / total if most > 1 else 0.0
        else:
            seen: set[tuple[str, ...]] = set()
            covered: set[int] = set()
            for i, gram in enumerate(grams):
                if gram in seen:
                    covered |= set(range(i, i + n))
                seen.add(gram)
            shares[n] = sum(len(words[i]) for i in covered) / total
    return shares


def test_repeated_ngrams_are_those_of_a_plain_count() -> None:
    rng = random.Random(1)
    for _ in range(150):
        vocabulary = ["a", "bb", "ccc", "d"][: rng.randint(1, 4)]
        texts = [" ".join(rng.choices(vocabulary, k=rng.randint(0, 50))) for _ in range(rng.randint(1, 5))]
        expected = [plain_shares(text) for text in texts]
        for n, shares in ngram_shares(Words(texts)):
            assert shares.tolist() == pytest.approx([share[n] for share in expected]), (n, texts)


@pytest.mark.parametrize(
    ("text", "lines", "characters"),
    [
        ("one\ntwo\nthree", 0.0, 0.0),
        ("same\nsame\n\n  same  \nother", 0.5, 8 / 17),
        ("", 0.0, 0.0),
        ("\n\n\n", 0.0, 0.0),
    ],
)
def test_lines_that_come_again(text: str, lines: float, characters: float) -> None:
    assert repeated_parts(stripped(text, "\n")) == pytest.approx((lines, characters))


def test_repetition_is_found_where_it_is_and_only_there() -> None:
    rng = random.Random(0)
    varied = " ".join(f"word{rng.randint(0, 5000)}" for _ in range(500))
    chant = "and so we go on and on for ever " * 20
    paragraphs = "\n\n".join([varied[:200]] * 3)
    assert list(repeated_words(Words([varied, chant, varied]), 1.0)) == [1]
    assert list(repeated_lines(Batch([varied, paragraphs]), 1.0)) == [1]
    assert not repeated_words(Words([chant]), 100.0)  # limits above 1 leave everything
