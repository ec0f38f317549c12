"""Records of a split to `tokens/SPLIT.bin`, `.docs` and, where prompts are known, `.spans`."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from adam.contract.errors import StoppedError
from adam.contract.shards import DataFile, TokenSplit, hashed
from adam.forge.documents import ShardRecord
from adam.forge.encoders import Encoder
from adam.forge.loss_spans import PromptFinder
from adam.forge.marks import mark_spans
from adam.forge.progress import Progress

STOPPED = "stopped while making tokens; the next start makes them again"


def batches(records: Iterable[ShardRecord], characters: int) -> Iterator[list[ShardRecord]]:
    """Records in lists of about so many characters: a document may be of any size, a list must not be."""
    batch: list[ShardRecord] = []
    size = 0
    for record in records:
        batch.append(record)
        size += len(record.text)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class Marks(NamedTuple):
    """The id before each document and behind the last, and the ids of what masking writes."""

    document: int
    masks: dict[str, int]


class Context(NamedTuple):
    """What is the same whichever encoder packs.

    Attributes:
        work: the directory of the files.
        stop: whether somebody has asked for an end.
    """

    finder: PromptFinder
    marks: Marks
    work: Path
    progress: Progress
    stop: Callable[[], bool]


class _Pieces:
    """The texts of a batch, cut where masking wrote a mark: what stands before each piece is an id that no encoder gives."""

    def __init__(self, batch: list[ShardRecord], marks: Marks) -> None:
        self.texts: list[str] = []
        self.leads: list[int] = []
        self.first: list[int] = []  # piece of each record
        self.cuts = [mark_spans(record.text, record.masks, marks.masks) if record.masks else [] for record in batch]
        for record, cuts in zip(batch, self.cuts, strict=True):
            self.first.append(len(self.texts))
            at, lead = 0, marks.document
            for start, end in cuts:
                self._add(record.text[at:start], lead)
                at, lead = end, marks.masks[record.text[start:end]]
            self._add(record.text[at:], lead)

    def _add(self, text: str, lead: int) -> None:
        self.texts.append(text)
        self.leads.append(lead)


class Packer:
    """Encodes splits one after another into files of little-endian ids.

    Args:
        dtype: `<u2` or `<u4`.
    """

    def __init__(self, encoder: Encoder, dtype: str, context: Context) -> None:
        self._encoder, self._dtype = encoder, dtype
        self._finder, self._marks, self._work, self._progress, self._stop = context
        self._done = 0

    def pack(self, split: str, records: Iterable[ShardRecord]) -> TokenSplit:
        """Write the files of a split. Raises StoppedError, and what the encoder raises."""
        count, before = 0, self._done
        starts: list[npt.NDArray[np.int64]] = []
        prompts: list[npt.NDArray[np.int64]] = []
        with (self._work / f"{split}.bin").open("wb") as file:
            for batch in batches(records, self._encoder.batch_chars):
                if self._stop():
                    raise StoppedError(STOPPED)
                ids, begins = self._encode(batch, prompts, count)
                file.write(ids.astype(self._dtype).tobytes())
                starts.append(begins)
                count += len(ids)
                self._done += sum(map(_bytes, batch))
                self._progress.at(self._done)
                self._progress.counted(len(batch))
            file.write(np.array([self._marks.document], dtype=self._dtype).tobytes())
        documents = sum(map(len, starts))
        write(self._work / f"{split}.docs", _joined(starts).tobytes())
        if prompts:
            write(self._work / f"{split}.spans", _joined(prompts).tobytes())
        return TokenSplit(
            tokens=data_file(self._work / f"{split}.bin", split, documents, self._progress.tick),
            starts=data_file(self._work / f"{split}.docs", split, documents),
            dtype=self._dtype,
            count=count + 1,
            documents=documents,
            text_bytes=self._done - before,
            prompts=data_file(self._work / f"{split}.spans", split) if prompts else None,
            prompt_tokens=sum(int((runs[:, 1] - runs[:, 0]).sum()) for runs in prompts),
        )

    def _encode(
        self, batch: list[ShardRecord], prompts: list[npt.NDArray[np.int64]], count: int
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        """(ids with their marks, where in the stream documents begin) of a batch behind `count` tokens; adds to `prompts`."""
        pieces = _Pieces(batch, self._marks)
        encoded = self._encoder.encode(pieces.texts)
        ids = np.insert(encoded.ids, encoded.bounds[:-1], np.array(pieces.leads, dtype=np.uint32))
        begins = (encoded.bounds[:-1] + np.arange(len(pieces.texts)))[pieces.first]
        ends = [*begins[1:], len(ids)]
        for record, cuts, begin, end in zip(batch, pieces.cuts, begins, ends, strict=True):
            if record.spans:
                runs = self._finder.find(record.text, record.spans, ids[begin + 1 : end], cuts)
                if len(runs):
                    prompts.append(runs + count + begin + 1)
        return ids, begins + count


def _bytes(record: ShardRecord) -> int:
    return len(record.text) if record.text.isascii() else len(record.text.encode())


def _joined(parts: list[npt.NDArray[np.int64]]) -> npt.NDArray[np.uint64]:
    return np.concatenate(parts or [np.zeros(0, dtype=np.int64)]).astype("<u8")


def write(path: Path, data: bytes) -> None:
    """Not by the libraries' own `save` and `tofile`: where the disk is full, they do not say so."""
    with path.open("wb") as file:
        file.write(data)


def data_file(path: Path, split: str = "", documents: int = 0, tick: Callable[[], object] = lambda: None) -> DataFile:
    """The entry of a file, which is durable from here on."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return DataFile(path.name, path.stat().st_size, hashed(path, tick), split, documents)
