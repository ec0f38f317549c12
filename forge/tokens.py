"""Shards to tokens: the tokenizer, the packed streams with their documents' starts, and the floor to compare with."""

import os
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import structlog
from tokenizers import Tokenizer

from adam.contract import schema
from adam.contract.clock import stamp
from adam.contract.config import Config
from adam.contract.durable import fsync_dir, replace_file, sha256_file
from adam.contract.errors import StoppedError
from adam.contract.paths import RunPaths
from adam.contract.shards import SPLITS, DataFile, ShardManifest, TokensManifest, TokenSplit, check_files
from adam.contract.states import Phase
from adam.forge.baseline import order2_bits_per_byte
from adam.forge.progress import Progress
from adam.forge.tokenizer import bytes_of_ids, end_of_text, given, learn
from adam.forge.writer import texts

BATCH = 64  # documents encoded at once, on all cores

log = structlog.get_logger()


def build_tokens(
    config: Config, paths: RunPaths, shards: ShardManifest, progress: Progress, stop: Callable[[], bool]
) -> TokensManifest:
    """Make `tokens/` of the shards; a killed one is begun again, since encoding is fast.

    Raises DataError (a shard that was cut or changed; a tokenizer that can't be used), StoppedError.
    """
    check_files(paths.shards, shards.files, digests=True)
    work = paths.tokens / ".work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    progress.enter(Phase.LEARNING, 0)
    if config.forge.tokenizer == "train":
        tokenizer, origin = learn(texts(paths.shards, shards.files, "train"), config.forge), "trained"
    else:
        tokenizer, origin = given(config.forge.tokenizer, paths.root)
    mark = end_of_text(tokenizer)
    tokenizer.save(str(work / "tokenizer.json"))
    bytes_of_ids(tokenizer).tofile(work / "token_bytes")
    progress.enter(Phase.ENCODING, sum(file.size for file in shards.files))
    encoder = _Encoder(tokenizer, mark, work, progress, stop)
    splits = {split: encoder.encode(split, texts(paths.shards, shards.files, split)) for split in SPLITS}
    floor = order2_bits_per_byte(
        *((text.encode() for text in texts(paths.shards, shards.files, split)) for split in SPLITS)
    )
    manifest = TokensManifest(
        shards_sha256=sha256_file(paths.shards_manifest),
        tokenizer=_data_file(work / "tokenizer.json"),
        tokenizer_origin=origin,
        vocab_size=tokenizer.get_vocab_size(),
        end_of_text=mark,
        token_bytes=_data_file(work / "token_bytes"),
        splits=splits,
        order2_bits_per_byte=floor,
        stamp=stamp(),
    )
    for path in sorted(work.iterdir()):
        path.replace(paths.tokens / path.name)
    fsync_dir(paths.tokens)
    replace_file(paths.tokens_manifest, schema.encode(manifest))
    work.rmdir()
    return manifest


def _data_file(path: Path, split: str = "", documents: int = 0) -> DataFile:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return DataFile(path.name, path.stat().st_size, sha256_file(path), split, documents)


class _Encoder:
    """Encodes splits one after another into files of little-endian ids."""

    def __init__(
        self, tokenizer: Tokenizer, mark: int, work: Path, progress: Progress, stop: Callable[[], bool]
    ) -> None:
        self._tokenizer, self._mark, self._work = tokenizer, mark, work
        self._progress, self._stop = progress, stop
        self._dtype = "<u2" if tokenizer.get_vocab_size() <= 1 << 16 else "<u4"
        self._done = 0

    def encode(self, split: str, documents: Iterator[str]) -> TokenSplit:
        count, text_bytes, starts = 0, 0, []
        with (self._work / f"{split}.bin").open("wb") as file:
            while batch := list(islice(documents, BATCH)):
                if self._stop():
                    raise StoppedError("stopped while encoding; the next start encodes again")
                for text, encoding in zip(
                    batch, self._tokenizer.encode_batch(batch, add_special_tokens=False), strict=True
                ):
                    ids = np.array([self._mark, *encoding.ids], dtype=self._dtype)
                    file.write(ids.tobytes())
                    starts.append(count)
                    count += len(ids)
                    size = len(text.encode())
                    text_bytes += size
                    self._done += size
                self._progress.at(self._done)
            file.write(np.array([self._mark], dtype=self._dtype).tobytes())
        np.array(starts, dtype="<u8").tofile(self._work / f"{split}.docs")
        return TokenSplit(
            tokens=_data_file(self._work / f"{split}.bin", split, len(starts)),
            starts=_data_file(self._work / f"{split}.docs", split, len(starts)),
            dtype=self._dtype,
            count=count + 1,
            documents=len(starts),
            text_bytes=text_bytes,
        )
