"""Records of a split to `tokens/SPLIT.bin`, `.docs` and, where prompts are known, `.spans`."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from adam.contract.errors import StoppedError
from adam.contract.shards import DataFile, TokenSplit, hashed
from adam.forge.documents import ShardRecord
from adam.forge.encoders import Encoded, Encoder
from adam.forge.loss_spans import PromptFinder
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


class Packer:
    """Encodes splits one after another into files of little-endian ids in `work`.

    Args:
        mark: the id before each document, and behind the last.
        dtype: `<u2` or `<u4`.
    """

    def __init__(
        self,
        encoder: Encoder,
        finder: PromptFinder,
        mark: int,
        dtype: str,
        work: Path,
        progress: Progress,
        stop: Callable[[], bool],
    ) -> None:
        self._encoder, self._finder, self._mark, self._dtype = encoder, finder, mark, dtype
        self._work, self._progress, self._stop = work, progress, stop
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
                encoded = self._encoder.encode([record.text for record in batch])
                file.write(np.insert(encoded.ids, encoded.bounds[:-1], self._mark).astype(self._dtype).tobytes())
                begins = count + encoded.bounds[:-1] + np.arange(len(batch))
                starts.append(begins)
                prompts += self._prompts(batch, encoded, begins + 1)
                count += len(batch) + len(encoded.ids)
                self._done += sum(map(_bytes, batch))
                self._progress.at(self._done)
                self._progress.counted(len(batch))
            file.write(np.array([self._mark], dtype=self._dtype).tobytes())
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

    def _prompts(
        self, batch: list[ShardRecord], encoded: Encoded, begins: npt.NDArray[np.int64]
    ) -> Iterator[npt.NDArray[np.int64]]:
        for number, record in enumerate(batch):
            if record.spans:
                ids = encoded.ids[encoded.bounds[number] : encoded.bounds[number + 1]]
                runs = self._finder.find(record.text, record.spans, ids)
                if len(runs):
                    yield runs + begins[number]


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
