"""Shards to tokens: the tokenizer, the packed streams with their documents' starts, and the floor to compare with.

shards ──> digests checked ──> learn or load ──> encode, split by split ──> tokens/.work ──> tokens/, manifest last
                                            └──> order-2 byte model, counted on train ──> manifest
"""

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
from adam.contract.shards import SPLITS, ShardManifest, TokenPhase, TokensManifest, TokenSplit, check_files
from adam.contract.states import Phase
from adam.forge.baseline import order2_bits_per_byte
from adam.forge.documents import ShardRecord
from adam.forge.encoders import CHECKED_CHARS, DiffersError, Encoder, choose_encoder, library_encoder
from adam.forge.loss_spans import PromptFinder
from adam.forge.marks import marks
from adam.forge.packing import STOPPED, Context, Marks, Packer, data_file, write
from adam.forge.progress import Progress
from adam.forge.room import token_bytes_needed
from adam.forge.tokenizer import bytes_of_ids, end_of_text, given, ids_of, learn, register, sample, take_marks_as_text
from adam.forge.writer import records


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
    written = marks(config.forge.skeletons)
    if config.forge.tokenizer == "train":
        texts = sample(records(paths.shards, shards.files, "train"), sizes["train"], progress.tick)
        tokenizer, origin = learn(texts, config.forge, written), "trained"
    else:
        tokenizer, origin = given(config.forge.tokenizer, paths.root)
    mark = end_of_text(tokenizer)
    known = register(tokenizer, written)
    take_marks_as_text(tokenizer, mark)
    work.mkdir(parents=True)
    table = bytes_of_ids(tokenizer, mark, known)
    write(work / "tokenizer.json", tokenizer.to_str(pretty=True).encode())
    write(work / "token_bytes", table.tobytes())
    context = Context(PromptFinder(tokenizer, table), Marks(mark, known), work, progress, stop)
    pack = _Packing(paths, shards, context)
    splits, encoder = pack.by_fastest(tokenizer, sizes)
    train, val = ((record.text.encode() for record in pack.records(split)) for split in SPLITS)
    floor = order2_bits_per_byte(train, val, progress.tick)
    manifest = TokensManifest(
        shards_sha256=sha256_file(paths.shards_manifest),
        tokenizer=data_file(work / "tokenizer.json"),
        tokenizer_origin=origin,
        vocab_size=ids_of(tokenizer),
        end_of_text=mark,
        marks=known,
        encoder=encoder,
        token_bytes=data_file(work / "token_bytes"),
        splits=splits,
        phases=_phases(shards, splits["train"], work),
        order2_bits_per_byte=floor,
        stamp=stamp(),
    )
    for path in sorted(work.iterdir()):
        path.replace(paths.tokens / path.name)
    work.rmdir()
    fsync_dir(paths.tokens)
    replace_file(paths.tokens_manifest, schema.encode(manifest))
    return manifest


def _phases(shards: ShardManifest, train: TokenSplit, work: Path) -> tuple[TokenPhase, ...]:
    """Where in the train tokens each mix begins."""
    starts = np.memmap(work / train.starts.name, dtype="<u8", mode="r")
    firsts = [phase.starts["train"] for phase in shards.phases]
    places = [int(starts[first]) if first < len(starts) else train.count - 1 for first in firsts]
    return tuple(TokenPhase(phase.name, place) for phase, place in zip(shards.phases, places, strict=True))


class _Packing:
    """The records of a run, packed by the fastest encoder that gives the ids of the library."""

    def __init__(self, paths: RunPaths, shards: ShardManifest, context: Context) -> None:
        self._paths, self._shards, self._context = paths, shards, context

    def records(self, split: str) -> Iterator[ShardRecord]:
        """The records of a split. Raises StoppedError where somebody asks for an end."""
        for record in records(self._paths.shards, self._shards.files, split):
            if self._context.stop():
                raise StoppedError(STOPPED)
            yield record

    def by_fastest(self, tokenizer: Tokenizer, sizes: dict[str, int]) -> tuple[dict[str, TokenSplit], str]:
        """(splits, what has encoded them). Begun again by the library where the faster one is found to differ."""
        encoder = choose_encoder(tokenizer, self._checked(sizes["val"]))
        try:
            return self._pack(tokenizer, encoder, sizes), encoder.name
        except DiffersError:
            encoder = library_encoder(tokenizer, f"{encoder.name} gave other ids for a document")
            return self._pack(tokenizer, encoder, sizes), encoder.name

    def _checked(self, val_bytes: int) -> Iterator[str]:
        """Texts of val, evenly spread, until an encoder has been compared on enough."""
        every = 1 + val_bytes // CHECKED_CHARS
        for number, record in enumerate(self.records("val")):
            if number % every == 0:
                self._context.progress.tick()
                yield record.text

    def _pack(self, tokenizer: Tokenizer, encoder: Encoder, sizes: dict[str, int]) -> dict[str, TokenSplit]:
        self._context.progress.enter(Phase.ENCODING, sum(sizes.values()))
        dtype = "<u2" if ids_of(tokenizer) <= 1 << 16 else "<u4"
        packer = Packer(encoder, dtype, self._context)
        return {split: packer.pack(split, self.records(split)) for split in SPLITS}
