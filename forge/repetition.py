"""How much of a document repeats itself, as Gopher's rules count it (Rae et al. 2021, arXiv 2112.11446, table A1)."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from adam.forge.batch import Batch, stripped
from adam.forge.words import Places, Words

LINES, LINE_CHARS, PARAGRAPHS, PARAGRAPH_CHARS = 0.30, 0.20, 0.30, 0.20
TOP = {2: 0.20, 3: 0.18, 4: 0.16}
DUPLICATE = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
PLACE_BITS = (
    22  # of a sorting key; the other 42 are an n-gram's hash. Filters look at no more words of a document than that
)
PLACE = (1 << PLACE_BITS) - 1

Shares = npt.NDArray[np.float64]


def repeated_parts(parts: Sequence[str]) -> tuple[float, float]:
    """(share of parts, share of their characters) that say again what an earlier part has said."""
    distinct = set(parts)
    again = len(parts) - len(distinct)
    if not again:
        return 0.0, 0.0
    return again / len(parts), 1 - sum(map(len, distinct)) / sum(map(len, parts))


def repeated_lines(batch: Batch, scale: float) -> dict[int, str]:
    """Document -> what was found, of those with more repeated lines or paragraphs than `scale` times Gopher's limits.

    Blanks around lines and paragraphs do not count, nor do empty ones.
    """
    found: dict[int, str] = {}
    for number, (text, lines) in enumerate(zip(batch.texts, batch.lines, strict=True)):
        for name, parts, limit, char_limit in (
            ("lines", lines, LINES, LINE_CHARS),
            ("paragraphs", stripped(text, "\n\n"), PARAGRAPHS, PARAGRAPH_CHARS),
        ):
            share, characters = repeated_parts(parts)
            if share > scale * limit or characters > scale * char_limit:
                found.setdefault(number, f"{name} {share:.2f}, their characters {characters:.2f}")
    return found


def repeated_words(words: Words, scale: float) -> dict[int, str]:
    """Document -> what was found, of those with more repeated n-grams than `scale` times Gopher's limits."""
    found: dict[int, str] = {}
    for n, shares in ngram_shares(words):
        limit = TOP.get(n) or DUPLICATE[n]
        for number in np.flatnonzero(shares > scale * limit).tolist():
            found.setdefault(number, f"{'top' if n in TOP else 'repeated'} {n}-grams {shares[number]:.2f}")
    return found


def ngram_shares(words: Words) -> Iterator[tuple[int, Shares]]:
    """For n of 2 to 10 the share of each document's word characters that is in repeated n-grams: (n, (documents,)).

    For n of 2 to 4 the most frequent n-gram (of equally frequent ones the longest, and 0 where all are different); from 5 on all
    words of n-grams that have come before, each word counted once. An n-gram that comes twice begins with an (n-1)-gram that does,
    and the next place has another: so each n looks at the few places that are left.
    """
    total = np.maximum(words.per_document(words.lengths), 1)
    places = words.places(2)
    for n in range(2, max(DUPLICATE) + 1):
        keys, places = _sorted_keys(words, places, n)
        same = np.flatnonzero(keys[1:] >> np.uint64(PLACE_BITS) == keys[:-1] >> np.uint64(PLACE_BITS))
        # A key holds no document: its neighbours may be another's, whose hash would then have to be equal too.
        same = same[words.documents(places[same]) == words.documents(places[same + 1])]
        yield n, (_top if n in TOP else _again)(words, places, same, n) / total
        repeated = np.zeros(len(words.hashes) + 1, dtype=bool)
        repeated[places[same]] = repeated[places[same + 1]] = True
        places = np.flatnonzero(repeated[:-1] & repeated[1:] & (words.left > n))


def _sorted_keys(words: Words, places: Places, n: int) -> tuple[npt.NDArray[np.uint64], Places]:
    """(keys: an n-gram's hash over its place, places) sorted within each document: equal n-grams are neighbours, in order."""
    first = words.bounds[words.documents(places)]
    keys = words.grams(places, n) & np.uint64(~PLACE & (1 << 64) - 1) | (places - first).astype(np.uint64)
    borders = np.searchsorted(places, words.bounds)
    for begin, end in pairwise(borders.tolist()):
        if end - begin > 1:
            keys[begin:end].sort()
    return keys, (keys & np.uint64(PLACE)).astype(np.int64) + first


def _top(words: Words, places: Places, same: Places, n: int) -> Places:
    """Characters of the most frequent n-gram, all its occurrences together: (documents,)."""
    best = np.zeros(len(words.bounds) - 1, dtype=np.int64)
    if not len(same):
        return best
    new = np.concatenate([[True], np.diff(same) > 1])
    begins = np.flatnonzero(new)
    counts = np.diff(np.append(begins, len(same))) + 1
    at = places[same[begins]]
    characters = words.characters[at + n] - words.characters[at]
    np.maximum.at(best, words.documents(at), counts << 32 | characters)
    return (best >> 32) * (best & 0xFFFFFFFF)


def _again(words: Words, places: Places, same: Places, n: int) -> Places:
    """Characters of the words in n-grams that have come before: (documents,)."""
    inside = np.zeros(len(words.hashes), dtype=bool)
    for step in range(n):
        inside[places[same + 1] + step] = True
    return words.per_document(words.lengths * inside)
