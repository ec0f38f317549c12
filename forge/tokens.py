"""Shards to tokens: the tokenizer, the packed streams with their documents' starts, and the floor to compare with.

shards ──> digests checked ──> learn or load ──> encode, split by split ──> tokens/.work ──> tokens/, manifest last
                                            └──> order-2 byte model, counted on train ──> manifest
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from adam.contract import schema
from adam.contract.clock import stamp
from adam.contract.config import Config
from adam.contract.durable import free_bytes, fsync_dir, replace_file, require_room, sha256_file
from adam.contract.errors import StoppedError
from adam.contract.paths import RunPaths
from adam.contract.shards import SPLITS, DataFile, ShardManifest, TokensManifest, TokenSplit, check_files, hashed
from adam.contract.states import Phase
from adam.forge.baseline import order2_bits_per_byte
from adam.forge.progress import Progress
from adam.forge.room import token_bytes_needed
from adam.forge.tokenizer import bytes_of_ids, end_of_text, given, ids_of, learn, sample, take_marks_as_text
from adam.forge.writer import records

BATCH_CHARS = 1_000_000  # encoded at once, on all cores: under a second, and some hundred megabytes
STOPPED = "stopped while making tokens; the next start makes them again"


def build_tokens(
    config: Config,
    paths: RunPaths,
    shards: ShardManifest,
    progress: Progress,
    stop: Callable[[], bool],
    free: Callable[..., int] = free_bytes,
) -> TokensManifest:
    """Make `tokens/` of the shards; a killed one is begun again, since encoding is fast.

    Raises DataError (a shard that was cut or changed; a tokenizer that can't be used), DiskError (no room), StoppedError.
    """
    progress.enter(Phase.LEARNING, 0)
    check_files(paths.shards, shards.files, digests=True, tick=progress.tick)
    sizes = {split: sum(file.size for file in shards.files if file.split == split) for split in SPLITS}
    work = paths.tokens / ".work"
    shutil.rmtree(work, ignore_errors=True)
    need = token_bytes_needed(config.forge, sum(sizes.values()))
    require_room(paths.root, need, "tokens", free=free(paths.root))
    if config.forge.tokenizer == "train":
        texts = sample(records(paths.shards, shards.files, "train"), sizes["train"], progress.tick)
        tokenizer, origin = learn(texts, config.forge), "trained"
    else:
        tokenizer, origin = given(config.forge.tokenizer, paths.root)
    mark = end_of_text(tokenizer)
    take_marks_as_text(tokenizer, mark)
    work.mkdir(parents=True)
    # Not by the library's own `save` and `tofile`: where the disk is full, they do not say so.
    _write(work / "tokenizer.json", tokenizer.to_str(pretty=True).encode())
    _write(work / "token_bytes", bytes_of_ids(tokenizer, mark).tobytes())
    progress.enter(Phase.ENCODING, sum(sizes.values()))
    encoder = _Encoder(tokenizer, mark, work, progress, stop)
    splits = {split: encoder.encode(split, _texts(paths, shards, split)) for split in SPLITS}
    train, val = ((text.encode() for text in _texts(paths, shards, split, stop)) for split in SPLITS)
    floor = order2_bits_per_byte(train, val, progress.tick)
    manifest = TokensManifest(
        shards_sha256=sha256_file(paths.shards_manifest),
        tokenizer=_data_file(work / "tokenizer.json"),
        tokenizer_origin=origin,
        vocab_size=ids_of(tokenizer),
        end_of_text=mark,
        token_bytes=_data_file(work / "token_bytes"),
        splits=splits,
        order2_bits_per_byte=floor,
        stamp=stamp(),
    )
    for path in sorted(work.iterdir()):
        path.replace(paths.tokens / path.name)
    work.rmdir()
    fsync_dir(paths.tokens)
    replace_file(paths.tokens_manifest, schema.encode(manifest))
    return manifest


def _texts(
    paths: RunPaths, shards: ShardManifest, split: str, stop: Callable[[], bool] = lambda: False
) -> Iterator[str]:
    for record in records(paths.shards, shards.files, split):
        if stop():
            raise StoppedError(STOPPED)
        yield record.text


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)


def _data_file(path: Path, split: str = "", documents: int = 0, tick: Callable[[], object] = lambda: None) -> DataFile:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return DataFile(path.name, path.stat().st_size, hashed(path, tick), split, documents)


def batches(documents: Iterator[str], characters: int) -> Iterator[list[str]]:
    """Documents in lists of about so many characters: a document may be of any size, a list must not be."""
    batch: list[str] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Encoder:
    """Encodes splits one after another into files of little-endian ids."""

    def __init__(
        self, tokenizer: Tokenizer, mark: int, work: Path, progress: Progress, stop: Callable[[], bool]
    ) -> None:
        self._tokenizer, self._mark, self._work = tokenizer, mark, work
        self._progress, self._stop = progress, stop
        self._dtype = "<u2" if ids_of(tokenizer) <= 1 << 16 else "<u4"
        self._done = 0

    def encode(self, split: str, documents: Iterator[str]) -> TokenSplit:
        count, starts, done = 0, [], self._done
        with (self._work / f"{split}.bin").open("wb") as file:
            for batch in batches(documents, BATCH_CHARS):
                if self._stop():
                    raise StoppedError(STOPPED)
                encodings = self._tokenizer.encode_batch_fast(batch, add_special_tokens=False)
                for text, encoding in zip(batch, encodings, strict=True):
                    file.write(np.array([self._mark, *encoding.ids], dtype=self._dtype).tobytes())
                    starts.append(count)
                    count += 1 + len(encoding.ids)
                    self._done += len(text.encode())
                self._progress.at(self._done)
            file.write(np.array([self._mark], dtype=self._dtype).tobytes())
        _write(self._work / f"{split}.docs", np.array(starts, dtype="<u8").tobytes())
        return TokenSplit(
            tokens=_data_file(self._work / f"{split}.bin", split, len(starts), self._progress.tick),
            starts=_data_file(self._work / f"{split}.docs", split, len(starts)),
            dtype=self._dtype,
            count=count + 1,
            documents=len(starts),
            text_bytes=self._done - done,
        )
