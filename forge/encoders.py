"""Texts to ids, many at once: by the `tokenizers` library, or by fastokens where it is shown to give the same ids.

fastokens (PyPI) reads byte-level BPE from the same tokenizer.json and is some thirty times as fast. Nobody has to believe it:
before it is used it must agree with the library on texts that are known to be hard and on the validation split (which is a random
sample of the run, since the hash of its text chooses a document), and while it encodes, on one character in SAMPLED of the rest.
"""

from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import structlog
from tokenizers import Tokenizer

CHECKED_CHARS = 2_000_000  # of the validation split, before the first token is written: a second or two of the library
SAMPLED = (
    512  # one character of so many is encoded by the library too: at its 1.5 MB/s that is 1.3 ms for each megabyte
)
# Blanks at all places, contractions, every kind of letter, number and mark, and what normalisers change.
HARD = (
    "",
    " ",
    "  a   b\n\n  c\t\td \r\n e  ",
    "it's IT'S we'll WE'LL ’s I'd'd they'rex '' 'tis",
    "a1b22c333 4444 ٣٤ ½Ⅷ x² 1,000.00 0x7f --==>> $$$ __init__",
    "été e\u0301te\u0301 ﬁ Å A\u030a \u2126 \u0344 \u1e9b\u0323 \U0001d15e 각 \u1100\u1161\u11a8",
    "中文字 日本語の ไทย\u0e33 हिन्दी ਪੰਜਾਬੀ العَرَبِيَّة עִבְרִית \u180e \u3000 \u00a0 \u200b \u2028 \x85 \x1c",
    "🐎👨‍👩‍👧🏳️‍🌈 \ue000\U000e0001\U0010ffff \0\x01\x7f \ufeff \ufffd",
)

log = structlog.get_logger()


class Encoded(NamedTuple):
    """Ids of texts, one behind another; those of text i are ids[bounds[i] : bounds[i + 1]]."""

    ids: npt.NDArray[np.uint32]
    bounds: npt.NDArray[np.int64]


class Encoder(Protocol):
    """Gives the ids of the `tokenizers` library, without marks of its own."""

    name: str  # for the manifest: what encoded, and why not something faster
    batch_chars: int  # of texts that are best given at once

    def encode(self, texts: list[str]) -> Encoded:
        """The ids of each text, computed on all cores. Raises DiffersError where they are found not to be the library's."""


class DiffersError(Exception):
    """The faster encoder gave other ids than the library."""


class LibraryEncoder:
    """By the `tokenizers` library and its threads."""

    batch_chars = 1_000_000  # under a second, and some hundred megabytes

    def __init__(self, tokenizer: Tokenizer, why: str) -> None:
        self._tokenizer = tokenizer
        self.name = f"tokenizers {version('tokenizers')} ({why})"

    def encode(self, texts: list[str]) -> Encoded:
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        found = [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]
        return Encoded(np.concatenate(found), np.cumsum([0, *map(len, found)], dtype=np.int64))


class FastEncoder:
    """By fastokens, compared with the library as it goes. Raises ImportError, or ValueError where it does not know the tokenizer."""

    batch_chars = 4_000_000

    def __init__(self, tokenizer: Tokenizer) -> None:
        import fastokens

        self._library = tokenizer
        self._fast = fastokens.Tokenizer.from_json_str(tokenizer.to_str())
        self._encoded = self._checked = 0
        self.name = f"fastokens {version('fastokens')}"

    def encode(self, texts: list[str]) -> Encoded:
        ids, bounds = self._fast.encode_batch_flat(texts, add_special_tokens=False, split_special_tokens=True)
        found = Encoded(np.frombuffer(ids, dtype="<u4"), np.frombuffer(bounds, dtype="<u8").astype(np.int64))
        for number, text in enumerate(texts):
            self._encoded += len(text)
            if self._checked * SAMPLED <= self._encoded:
                self._checked += len(text)
                self._compare(text, found.ids[found.bounds[number] : found.bounds[number + 1]])
        return found

    def check(self, texts: Iterable[str]) -> None:
        """Compare every one of the texts. Raises DiffersError."""
        for text in texts:
            ids, _ = self._fast.encode_batch_flat([text], add_special_tokens=False, split_special_tokens=True)
            self._compare(text, np.frombuffer(ids, dtype="<u4"))

    def _compare(self, text: str, ids: npt.NDArray[np.uint32]) -> None:
        if self._library.encode(text, add_special_tokens=False).ids != ids.tolist():
            raise DiffersError(text)


def choose_encoder(tokenizer: Tokenizer, texts: Iterator[str]) -> Encoder:
    """The fastest that gives the library's ids on HARD, on the tokenizer's own marks, and on `texts` of the run.

    Args:
        tokenizer: with `take_marks_as_text` done; it must not be changed afterwards.
        texts: about CHECKED_CHARS of them are enough.
    """
    try:
        fast = FastEncoder(tokenizer)
        marks = [str(token.content) for token in tokenizer.get_added_tokens_decoder().values()]
        fast.check([*HARD, *(f"a{mark}b {mark} {mark}{mark}\n" for mark in marks), " ".join(marks)])
        fast.check(texts)
    except ImportError:
        return library_encoder(tokenizer, "fastokens is not installed")
    except ValueError as error:
        return library_encoder(tokenizer, f"fastokens can't take this tokenizer: {str(error).splitlines()[0]}")
    except DiffersError:
        return library_encoder(tokenizer, f"fastokens {version('fastokens')} gives other ids")
    return fast


def library_encoder(tokenizer: Tokenizer, why: str) -> LibraryEncoder:
    log.warning("encoding by the tokenizers library alone", why=why)
    return LibraryEncoder(tokenizer, why)
