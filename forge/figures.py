"""What the report of a run shows, counted: from the manifests, the documents' starts and a part of the shards."""

import math
import random
from collections import Counter

import msgspec
import numpy as np

from adam.contract.config import Trainer
from adam.contract.curriculum import first_steps
from adam.contract.errors import DataError
from adam.contract.paths import RunPaths
from adam.contract.shards import ShardManifest, TokensManifest, load_shards, load_tokens
from adam.forge.documents import ShardRecord
from adam.forge.samples import Reservoir, decoded, shard_lines

COUNTED = 200_000  # documents whose length is counted; of more, every k-th
BINS_A_DECADE = 8
OF_A_SOURCE, MASKED = 1, 6  # samples
SOURCES_SHOWN = 24
DUPLICATES = ("duplicate", "near_duplicate")


class Histogram(msgspec.Struct, frozen=True):
    """Bin b counts the numbers of [10^(b / BINS_A_DECADE), 10^((b + 1) / BINS_A_DECADE)), rounded down."""

    first: int
    counts: list[int]
    median: float
    largest: int


class Figures(msgspec.Struct, frozen=True):
    """Everything that the page is made of. `every`: lengths and samples are of every so-many-th document; `steps`: where phases begin."""

    name: str
    shards: ShardManifest
    tokens: TokensManifest | None
    steps: list[tuple[str, int]]
    every: int
    lengths: Histogram
    token_lengths: Histogram | None
    samples: list[ShardRecord]
    masked: list[ShardRecord]

    @property
    def read(self) -> int:
        return sum(source.documents_read for source in self.shards.sources)

    @property
    def written(self) -> int:
        return sum(source.documents_written for source in self.shards.sources)

    @property
    def characters(self) -> int:
        return sum(source.characters_written for source in self.shards.sources)

    @property
    def dropped(self) -> Counter[str]:
        return sum((Counter(source.dropped) for source in self.shards.sources), Counter())

    @property
    def duplicates(self) -> int:
        return sum(self.dropped[reason] for reason in DUPLICATES)

    @property
    def forms(self) -> Counter[str]:
        return sum((Counter(source.masked.documents) for source in self.shards.sources), Counter())

    @property
    def entities(self) -> Counter[str]:
        return sum((Counter(source.masked.entities) for source in self.shards.sources), Counter())


def figures(paths: RunPaths, trainer: Trainer | None = None) -> Figures:
    """Count what a run's report shows; without `trainer` not in which steps. Raises DataError where there are no shards yet."""
    shards = load_shards(paths)
    if shards is None:
        raise DataError(f"there are no complete shards in {paths.shards}", "`adamctl forge` makes them")
    tokens = load_tokens(paths)
    every = 1 + sum(file.documents for file in shards.files) // COUNTED
    rng = random.Random(0)
    by_source = {source.name: Reservoir[bytes](OF_A_SOURCE, rng) for source in shards.sources[:SOURCES_SHOWN]}
    masked = Reservoir[bytes](MASKED, rng)
    lengths: Counter[int] = Counter()
    for line in shard_lines(paths, shards, every):
        record = decoded(line)
        lengths[len(record.text)] += 1
        if record.masks:
            masked.show(line)
        elif record.source in by_source:
            by_source[record.source].show(line)
    return Figures(
        name=paths.root.name,
        shards=shards,
        tokens=tokens,
        steps=first_steps(tokens, trainer.seq_len, trainer.batch_size) if tokens and trainer else [],
        every=every,
        lengths=histogram(lengths),
        token_lengths=_token_lengths(paths, tokens) if tokens is not None else None,
        samples=[decoded(line) for reservoir in by_source.values() for line in reservoir.kept],
        masked=[decoded(line) for line in masked.kept],
    )


def _token_lengths(paths: RunPaths, tokens: TokensManifest) -> Histogram:
    """Of all documents, their marks left out."""
    lengths: Counter[int] = Counter()
    for split in tokens.splits.values():
        starts = np.memmap(paths.tokens / split.starts.name, dtype="<u8", mode="r").astype(np.int64)
        sizes, counts = np.unique(np.diff(np.append(starts, split.count - 1)) - 1, return_counts=True)
        lengths.update(dict(zip(sizes.tolist(), counts.tolist(), strict=True)))
    return histogram(lengths)


def histogram(lengths: Counter[int]) -> Histogram:
    """Of lengths (number -> how often); what is below 1 counts as 1."""
    bins: Counter[int] = Counter()
    for length, count in lengths.items():
        bins[math.floor(math.log10(max(1, length)) * BINS_A_DECADE + 1e-9)] += count
    first, last = min(bins, default=0), max(bins, default=0)
    ordered = sorted(lengths.items())
    middle, seen, median = sum(lengths.values()) / 2, 0, 0.0
    for length, count in ordered:
        seen += count
        if seen >= middle:
            median = float(length)
            break
    return Histogram(first, [bins[number] for number in range(first, last + 1)], median, max(lengths, default=0))
