"""The words of many documents at once, as numbers: the one tokenisation that all filters share.

A word is a run of letters, digits and combining marks, lower-cased; each ideograph, kana and the like is a word of its own. Words
and n-grams are 64-bit hashes, which hang on the text alone: equal in each process and on each machine.
"""

import functools
import unicodedata
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]

# Odd, so that they have inverses modulo 2**64; drawn at random once.
CHAR_BASE, WORD_BASE = 0x9E6C63D0876A9A35, 0xC4CEB9FE1A85EC53
MASK = (1 << 64) - 1
TABLE = 0x20000  # code points with a value of their own; above are rare ideographs, and marks without words
IDEOGRAPHS = (
    (0x2E80, 0x3000),
    (0x3040, 0x3100),
    (0x31F0, 0x3200),
    (0x3400, 0xA000),
    (0xF900, 0xFB00),
    (0x20000, 0x40000),
)
FIRST_IDEOGRAPH = IDEOGRAPHS[0][0]


def _value(code: int) -> int:
    """What stands for a character in a word: the lower-cased one; 0 where it belongs to none."""
    char = chr(code)
    return ord(char.lower()[0]) if char.isalnum() or unicodedata.category(char).startswith("M") else 0


BLANK, SIGN, LETTER = range(3)


def _kind(code: int) -> int:
    char = chr(code)
    return BLANK if char.isspace() else LETTER if char.isalpha() else SIGN


class Words:
    """The words of `texts`. `hashes` (words,), `lengths` (words,) in characters; document d has words bounds[d] to bounds[d + 1]."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._text = "\n".join(texts)
        values = _looked_up(self._text, _value)
        starts, ends = _runs(values)
        sums = _prefix_sums(values, CHAR_BASE)
        self.hashes = mixed((sums[ends] - sums[starts]) * _powers(CHAR_BASE, len(values))[1][starts])
        self.lengths: Places = ends - starts
        self._starts, self._offsets = starts, np.cumsum([0, *(len(text) + 1 for text in texts)])
        self.bounds: Places = np.searchsorted(starts, self._offsets)

    @cached_property
    def _sums(self) -> Hashes:
        return _prefix_sums(self.hashes, WORD_BASE)

    @cached_property
    def characters(self) -> Places:
        """Characters in all words before each one: (words + 1,)."""
        return np.concatenate([[0], np.cumsum(self.lengths)])

    @cached_property
    def left(self) -> Places:
        """Words from each one to the end of its document, itself among them: (words,)."""
        counts = np.diff(self.bounds)
        return np.repeat(self.bounds[1:], counts) - np.arange(len(self.hashes))

    def places(self, n: int) -> Places:
        """Where an n-gram begins that does not leave its document."""
        return np.flatnonzero(self.left >= n)

    def grams(self, places: Places, n: int) -> Hashes:
        """The hashes of the n-grams that begin at `places`."""
        return mixed((self._sums[places + n] - self._sums[places]) * _powers(WORD_BASE, len(self.hashes))[1][places])

    @cached_property
    def letters(self) -> tuple[Places, Places, Places, Places]:
        """Of each document: letters, characters that are no blanks, runs of those, and runs with a letter in them."""
        kinds = _looked_up(self._text, _kind)
        starts, ends = _runs(kinds)
        letters, solid = (np.concatenate([[0], np.cumsum(kinds == kind)]) for kind in (LETTER, SIGN))
        solid += letters
        edges = np.minimum(self._offsets, len(kinds))
        runs = np.searchsorted(starts, self._offsets)
        alpha = np.concatenate([[0], np.cumsum(letters[ends] > letters[starts])])
        return np.diff(letters[edges]), np.diff(solid[edges]), np.diff(runs), np.diff(alpha[runs])

    def documents(self, places: Places) -> Places:
        """The document of each of these words."""
        return np.searchsorted(self.bounds, places, side="right") - 1

    def place_in_text(self, word: int) -> int:
        """The character of its document at which a word begins."""
        return int(self._starts[word] - self._offsets[self.documents(np.array(word))])

    def per_document(self, values: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> Places:
        """The sum over each document of a number that each word has: (documents,)."""
        sums = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
        return np.diff(sums[self.bounds])


class WordSet:
    """Tells which words, or n-grams, are in it. Most are not, and one look at a table says so. `hashes`: in order, each once."""

    def __init__(self, hashes: Hashes) -> None:
        ordered = np.sort(hashes)  # np.unique hashes once more, which takes ten times as long
        self.hashes = ordered[np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(ordered)]]
        slots = 1 << min(26, max(12, (8 * len(hashes)).bit_length()))
        self._mask = np.uint64(slots - 1)
        self._table = np.zeros(slots, dtype=bool)
        self._table[self.hashes & self._mask] = True

    def find(self, hashes: Hashes) -> Places:
        """Where in `hashes` some are that are in the set."""
        near = np.flatnonzero(self._table[hashes & self._mask])
        at = np.minimum(np.searchsorted(self.hashes, hashes[near]), len(self.hashes) - 1)
        return near[self.hashes[at] == hashes[near]] if len(self.hashes) else near[:0]


def mixed(hashes: Hashes) -> Hashes:
    """Spread every bit of the sums over all 64: the finaliser of SplitMix64 (Steele, Lea, Flood 2014)."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))


def _looked_up(text: str, what: Callable[[int], int]) -> npt.NDArray[np.integer]:
    """`what` of each character, 0 above the table but for ideographs, which stand for themselves: (characters,)."""
    if text.isascii():
        return np.frombuffer(text.encode().translate(_ascii_table(what)), dtype=np.uint8)
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    values = _table(what)[np.minimum(codes, TABLE)]
    high = np.flatnonzero(codes >= TABLE)
    values[high] = np.where(codes[high] < IDEOGRAPHS[-1][1], codes[high] if what is _value else LETTER, np.uint32(0))
    return np.asarray(values)


@functools.cache
def _ascii_table(what: Callable[[int], int]) -> bytes:
    return bytes(map(what, range(128))) + bytes(128)


@functools.cache
def _table(what: Callable[[int], int]) -> npt.NDArray[np.uint32]:
    """Made where the first text asks for it: it takes some 50 ms."""
    return np.array([*map(what, range(TABLE)), 0], dtype=np.uint32)


def _runs(values: npt.NDArray[np.integer]) -> tuple[Places, Places]:
    """(first character, first behind) of each word."""
    inside = np.zeros(len(values) + 2, dtype=np.int8)
    np.not_equal(values, 0, out=inside[1:-1].view(bool))
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    starts, ends = edges[::2], edges[1::2]
    if values.itemsize == 1 or not len(values) or values.max() < FIRST_IDEOGRAPH:
        return starts, ends
    alone = np.zeros(len(values), dtype=bool)
    for first, behind in IDEOGRAPHS:
        alone |= (values >= first) & (values < behind)
    at = np.flatnonzero(alone)
    # A word begins at each ideograph, and behind it where the run goes on.
    behind_it = at[inside[at + 2] > 0] + 1
    starts = np.union1d(starts, np.concatenate([at, behind_it]))
    ends = np.union1d(ends, np.concatenate([at[inside[at] > 0], at + 1]))
    return starts, ends


def _prefix_sums(values: npt.NDArray[np.integer], base: int) -> Hashes:
    """Sums of values[i] · base**i before each place, modulo 2**64: (values + 1,)."""
    sums = np.zeros(len(values) + 1, dtype=np.uint64)
    np.multiply(values, _powers(base, len(values))[0][: len(values)], out=sums[1:], dtype=np.uint64)
    np.cumsum(sums[1:], out=sums[1:])
    return sums


_kept: dict[int, tuple[Hashes, Hashes]] = {}


def _powers(base: int, count: int) -> tuple[Hashes, Hashes]:
    """(base**i, base**-i) modulo 2**64 for i up to `count` at least; kept, since each batch asks for them."""
    if base not in _kept or len(_kept[base][0]) <= count:
        size = 1 << count.bit_length()
        both = (base, pow(base, -1, 1 << 64))
        first, second = (np.full(size, number, dtype=np.uint64) for number in both)
        first[0] = second[0] = 1
        _kept[base] = (np.cumprod(first), np.cumprod(second))
    return _kept[base]
