"""Which tokens of a document are prompt, so that training may leave their loss out."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from adam.forge.documents import Span

PROMPT = "prompt"


class PromptFinder:
    """Finds prompt tokens by the bytes that each id stands for, or by the library's offsets where those do not tell.

    Args:
        tokenizer: whose ids they are.
        table: (ids,) bytes of text of each id, as `bytes_of_ids` gives them.
    """

    def __init__(self, tokenizer: Tokenizer, table: npt.NDArray[np.uint16]) -> None:
        self._tokenizer, self._table = tokenizer, table.astype(np.int64)

    def find(
        self, text: str, spans: tuple[Span, ...], ids: npt.NDArray[np.uint32], cuts: Sequence[tuple[int, int]] = ()
    ) -> npt.NDArray[np.int64]:
        """(n, 2) runs [first, end) of tokens that lie wholly in prompt spans, in order and apart.

        `cuts` are the places of `text` that are marks, one id each. A token that has a character of anything else in it has
        something to be learnt, and is no prompt.
        """
        prompts = [span for span in spans if span.role == PROMPT]
        if not prompts or not len(ids):
            return np.zeros((0, 2), dtype=np.int64)
        ends = np.cumsum(self._table[ids])
        data = text.encode()
        # A normaliser changes bytes, and sums may agree by chance; what is ASCII is left as it is by all that count bytes.
        if ends[-1] == len(data) and (text.isascii() or self._tokenizer.normalizer is None):
            return _runs(self._inside(ends - self._table[ids], ends, _byte_spans(text, prompts)))
        offsets = np.array(self._offsets(text, cuts), dtype=np.int64)
        return _runs(self._inside(offsets[:, 0], offsets[:, 1], [(span.start, span.end) for span in prompts]))

    def _offsets(self, text: str, cuts: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Characters [start, end) of each token, as the library tells them."""
        found: list[tuple[int, int]] = []
        at = 0
        for start, end in (*cuts, (len(text), len(text))):
            piece = self._tokenizer.encode(text[at:start], add_special_tokens=False)
            found += [(at + first, at + last) for first, last in piece.offsets]
            found += [(start, end)] if end > start else []
            at = end
        return found

    @staticmethod
    def _inside(
        starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64], spans: list[tuple[int, int]]
    ) -> npt.NDArray[np.bool_]:
        joined = _joined(spans)
        lower, upper = (np.array(side, dtype=np.int64) for side in zip(*joined, strict=True))
        at = np.searchsorted(lower, starts, side="right") - 1
        inside: npt.NDArray[np.bool_] = (at >= 0) & (ends <= upper[np.maximum(at, 0)])
        return inside


def _byte_spans(text: str, spans: list[Span]) -> list[tuple[int, int]]:
    """Spans in bytes of UTF-8. Each part of the text is encoded once."""
    places = sorted({0, *(place for span in spans for place in (span.start, span.end))})
    sizes = np.cumsum([0, *(len(text[start:end].encode()) for start, end in pairwise(places))])
    at = dict(zip(places, sizes.tolist(), strict=True))
    return [(at[span.start], at[span.end]) for span in spans]


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans that touch are one: a token may lie across the border of two prompts."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _runs(flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8)))
    return edges.reshape(-1, 2).astype(np.int64)
