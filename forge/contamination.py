"""Documents that share a run of words with an evaluation set: a model that has read the answers passes every test.

As in GPT-3 (Brown et al. 2020, arXiv 2005.14165, appendix C): runs of 13 lower-cased words without signs. There the surroundings
of a match are cut out; here the whole document goes, and the others of its book stay.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import structlog

from adam.contract.errors import DataError
from adam.forge.files import FetchError, SkippedError, ending, extra, open_file
from adam.forge.words import Hashes, Words, WordSet

SHOWN = 300  # characters of a match
BATCH = 1000  # records of an evaluation set that are hashed at once

log = structlog.get_logger()


class Evaluation:
    """The n-grams of evaluation sets.

    Args:
        files: Parquet, jsonl, json, or text with one item a line; all strings of a record are its words.
        words: n.

    Items of fewer words than n can't be found; how many they are is logged. Takes 8 bytes an n-gram, and as much again while it is
    made. Raises DataError where a file can't be read, or none of its items has n words.
    """

    def __init__(self, files: Sequence[Path], words: int) -> None:
        self._n = words
        self._grams = WordSet(np.concatenate([np.zeros(0, dtype=np.uint64), *(self._read(path) for path in files)]))

    def _read(self, path: Path) -> Hashes:
        parts, items, short, batch = [], 0, 0, []
        for text in [*_items(path), None]:
            if text is not None:
                batch.append(text)
            if len(batch) >= BATCH or text is None:
                found = Words(batch)
                parts.append(found.grams(found.places(self._n), self._n))
                short += int(np.count_nonzero(np.diff(found.bounds) < self._n))
                items, batch = items + len(batch), []
        if items == short:
            raise DataError(
                f"{path} has no item of {self._n} words to look for",
                "lower forge.filters.evaluation_words, or leave it out",
            )
        log.info("evaluation set", path=str(path), items=items, too_short_to_find=short)
        return np.concatenate(parts)

    def __len__(self) -> int:
        return len(self._grams.hashes)

    def find(self, texts: Sequence[str], words: Words) -> dict[int, tuple[str, str]]:
        """Document -> (where its first run of words begins, those words), of documents that share one with an evaluation set."""
        places = words.places(self._n)
        at = places[self._grams.find(words.grams(places, self._n))]
        found: dict[int, tuple[str, str]] = {}
        for place, number in zip(at.tolist(), words.documents(at).tolist(), strict=True):
            if number not in found:
                first = words.place_in_text(place)
                found[number] = f"word {place - words.bounds[number]}", texts[number][first : first + SHOWN]
        return found


def _items(path: Path) -> Iterator[str]:
    try:
        if path.suffix == ".parquet":
            for rows in extra("pyarrow.parquet", ".parquet files").ParquetFile(path).iter_batches(BATCH):
                yield from (" ".join(_strings(row)) for row in rows.to_pylist())
            return
        with open_file(path) as file:
            data = file.read().decode("utf-8-sig")
        kind = ending(path.name)
        if kind == ".json":
            records = msgspec.json.decode(data)
            yield from (" ".join(_strings(item)) for item in (records if isinstance(records, list) else [records]))
        elif kind == ".jsonl":
            yield from (" ".join(_strings(msgspec.json.decode(line))) for line in data.split("\n") if line.strip())
        else:
            yield from (line for line in data.split("\n") if line.strip())
    except (
        FetchError,
        OSError,
        SkippedError,
        ValueError,
        RecursionError,
    ) as error:  # pyarrow's, msgspec's and UTF-8's own are ValueErrors
        why = error.__cause__ or error
        raise DataError(f"the evaluation set {path} can't be read: {why}", "correct forge.filters.evaluation") from None


def _strings(value: Any) -> Iterator[str]:
    """All strings in a record, the keys not."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        yield from _strings(list(value.values()))
