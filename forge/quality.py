"""Rules on words, letters, lines and signs, each over many documents at once: Gopher's, and the share of reasoning words.

Gopher: Rae et al. 2021, arXiv 2112.11446, section A.1.1. Words here are those of `words.py` (runs of letters and digits), where
Gopher's lie between blanks: a hyphen parts two, and quotation marks do not lengthen any.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from adam.contract.config_filters import TextFilters
from adam.forge.batch import Batch
from adam.forge.words import Words, WordSet

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
BULLETS = ("•", "‣", "◦", "⁃", "●", "-", "*")
ELLIPSES = ("…", "...")

Values = npt.NDArray[np.float64]


class Rule(NamedTuple):
    """Documents whose value lies below `low` or above `high` are dropped for `reason`."""

    reason: str
    values: Callable[[Batch], Values]
    low: float = -np.inf
    high: float = np.inf

    def find(self, batch: Batch) -> dict[int, str]:
        """Document -> its value, of those that are dropped."""
        values = self.values(batch)
        bad = np.flatnonzero((values < self.low) | (values > self.high))
        return {int(number): f"{values[number]:.4g}" for number in bad}


def rules(config: TextFilters) -> list[Rule]:
    """The rules that are asked for, cheap ones first."""
    stop, markers = (WordSet(Words([" ".join(some)]).hashes) for some in (STOP_WORDS, config.reasoning_words))
    asked = (
        (config.min_words, Rule("too_few_words", _count, low=config.min_words)),
        (config.max_words, Rule("too_many_words", _count, high=config.max_words)),
        (config.min_word_chars, Rule("short_words", _mean_length, low=config.min_word_chars)),
        (config.max_word_chars, Rule("long_words", _mean_length, high=config.max_word_chars)),
        (config.max_symbols, Rule("symbols", _symbols, high=config.max_symbols)),
        (config.max_bullets, Rule("bullets", _bullets, high=config.max_bullets)),
        (config.max_ellipses, Rule("ellipses", _ellipses, high=config.max_ellipses)),
        (config.min_letters, Rule("few_letters", _letters, low=config.min_letters)),
        (config.min_alpha_words, Rule("few_alpha_words", _alpha_words, low=config.min_alpha_words)),
        (
            config.min_stop_words,
            Rule("few_stop_words", partial(_distinct, wanted=stop), low=config.min_stop_words),
        ),
        (
            config.min_reasoning,
            Rule("little_reasoning", partial(_share, wanted=markers), low=config.min_reasoning),
        ),
    )
    return [rule for value, rule in asked if value]


def _count(batch: Batch) -> Values:
    return np.diff(batch.words.bounds).astype(np.float64)


def _per_word(values: npt.NDArray[np.integer], words: Words) -> Values:
    return values / np.maximum(np.diff(words.bounds), 1)


def _mean_length(batch: Batch) -> Values:
    return _per_word(batch.words.per_document(batch.words.lengths), batch.words)


def _symbols(batch: Batch) -> Values:
    """The larger of # a word and … a word."""
    counts = [max(text.count("#"), text.count("…") + text.count("...")) for text in batch.texts]
    return _per_word(np.array(counts), batch.words)


def _bullets(batch: Batch) -> Values:
    return _shares([[line for line in lines if line.startswith(BULLETS)] for lines in batch.lines], batch.lines)


def _ellipses(batch: Batch) -> Values:
    return _shares([[line for line in lines if line.endswith(ELLIPSES)] for lines in batch.lines], batch.lines)


def _shares(some: list[list[str]], of: list[list[str]]) -> Values:
    return np.array([len(part) / max(1, len(whole)) for part, whole in zip(some, of, strict=True)])


def _letters(batch: Batch) -> Values:
    """Letters in each character that is no blank; an empty document has all."""
    letters, solid, _, _ = batch.words.letters
    return np.where(solid > 0, letters / np.maximum(solid, 1), 1.0)


def _alpha_words(batch: Batch) -> Values:
    _, _, runs, alpha = batch.words.letters
    return np.where(runs > 0, alpha / np.maximum(runs, 1), 1.0)


def _distinct(batch: Batch, wanted: WordSet) -> Values:
    """How many different ones of `wanted` a document has."""
    words = batch.words
    at = wanted.find(words.hashes)
    documents = words.documents(at)
    seen = np.zeros((len(words.bounds) - 1, len(wanted.hashes)), dtype=bool)
    seen[documents, np.searchsorted(wanted.hashes, words.hashes[at])] = True
    return np.asarray(np.sum(seen, axis=1), dtype=np.float64)


def _share(batch: Batch, wanted: WordSet) -> Values:
    """The share of a document's words that are in `wanted`: Adam's "DRI" for the markers of reasoning."""
    words = batch.words
    found = np.zeros(len(words.hashes), dtype=bool)
    found[wanted.find(words.hashes)] = True
    return _per_word(words.per_document(found), words)
