"""Documents of a run picked at random, for people to look at."""

import random
from collections.abc import Iterator
from typing import Generic, TypeVar

import msgspec

from adam.contract.durable import whole_lines
from adam.contract.errors import DataError
from adam.contract.paths import RunPaths
from adam.contract.shards import ShardManifest
from adam.forge.documents import ShardRecord

T = TypeVar("T")

CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
CONTROLS |= {
    code: f"\\u{code:04x}" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
}  # they turn text around


def visible(text: str) -> str:
    """`text` with control characters spelled out: printed, they could recolour a terminal, or write over what is above."""
    return text.translate(CONTROLS)


class Reservoir(Generic[T]):
    """`size` of the things that it is shown, each with the same chance (Vitter's algorithm R, ACM TOMS 11(1), 1985)."""

    def __init__(self, size: int, rng: random.Random) -> None:
        self._size, self._rng, self._shown = size, rng, 0
        self.kept: list[T] = []

    def show(self, thing: T) -> None:
        self._shown += 1
        if len(self.kept) < self._size:
            self.kept.append(thing)
        elif (place := self._rng.randrange(self._shown)) < self._size:
            self.kept[place] = thing


def shard_lines(paths: RunPaths, shards: ShardManifest, every: int = 1) -> Iterator[bytes]:
    """Every `every`-th line of the shards, the first among them."""
    number = 0
    for file in shards.files:
        for _, line in whole_lines(paths.shards / file.name):
            if number % every == 0:
                yield line
            number += 1


def picked(paths: RunPaths, shards: ShardManifest, count: int, source: str, seed: int | None) -> list[ShardRecord]:
    """`count` documents at random, of one source where it is named.

    Raises DataError where there is no such source. Reads all shards once, and decodes only what it may keep.
    """
    known = [summary.name for summary in shards.sources]
    if source and source not in known:
        raise DataError(f"there is no source {source!r}", f"the sources are {', '.join(known)}")
    mark = b'"source":' + msgspec.json.encode(source) if source else b""
    reservoir: Reservoir[bytes] = Reservoir(count, random.Random(seed))
    for line in shard_lines(paths, shards):
        # Metadata may hold the same letters, so a line that has them is decoded to see.
        if not source or (mark in line and decoded(line).source == source):
            reservoir.show(line)
    return [decoded(line) for line in reservoir.kept]


def decoded(line: bytes) -> ShardRecord:
    return msgspec.json.decode(line, type=ShardRecord)


class Dropped(msgspec.Struct, frozen=True):
    """An example of a document that was dropped."""

    source: str
    reason: str
    path: str
    text: str


def dropped(shards: ShardManifest, reason: str = "", source: str = "") -> list[Dropped]:
    """The examples of dropped documents that the manifest keeps. Raises DataError where none was dropped for this reason."""
    found = [
        Dropped(summary.name, why, example.path, example.text)
        for summary in shards.sources
        for why, examples in sorted(summary.examples.items())
        for example in examples
    ]
    reasons = sorted({why for summary in shards.sources for why in summary.dropped})
    if reason and reason not in reasons:
        raise DataError(f"no document was dropped as {reason!r}", f"reasons are {', '.join(reasons) or 'none'}")
    return [one for one in found if reason in ("", one.reason) and source in ("", one.source)]
