"""Shard files: one open for each split, closed at a size, cut back to what the journal knows."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from adam.contract.durable import whole_lines
from adam.contract.errors import DataError
from adam.contract.shards import SOURCES, SPLITS, DataFile, hashed
from adam.forge.documents import ShardRecord
from adam.forge.journal import Journal, OpenShard


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:05d}.jsonl"


def cut_back(directory: Path, journal: Journal) -> None:
    """Bring the files of a killed forge to where its journal stands. Raises DataError where they are shorter than that."""
    sizes = {file.name: file.size for file in journal.closed} | {SOURCES: journal.listed}
    sizes |= {shard_name(split, shard.number): shard.size for split, shard in journal.shards.items()}
    for path in directory.glob("*.jsonl"):
        if path.name not in sizes:
            path.unlink()  # begun behind the journal's back
    for name, size in sizes.items():
        path = directory / name
        if size and (not path.exists() or path.stat().st_size < size):
            raise DataError(f"{path} is shorter than the {size} bytes that its journal says")
        if path.exists():
            os.truncate(path, size)


class ShardWriter:
    """Writes records to the split's open shard.

    Args:
        directory: where the shards are built, cut back to `journal`.
        limit: bytes at which a shard is closed.
        tick: a sign of life while a closed shard is hashed.
    """

    def __init__(self, directory: Path, limit: int, journal: Journal, tick: Callable[[], object]) -> None:
        self._directory, self._limit, self._tick = directory, limit, tick
        self.closed = list(journal.closed)
        self._open = {split: msgspec.structs.replace(journal.shards.get(split, OpenShard())) for split in SPLITS}
        self._files = {split: self._open_file(split) for split in SPLITS}

    def _open_file(self, split: str) -> int:
        path = self._directory / shard_name(split, self._open[split].number)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def write(self, split: str, record: ShardRecord) -> None:
        line = msgspec.json.encode(record) + b"\n"
        written = 0
        while written < len(line):
            written += os.write(self._files[split], line[written:])
        shard = self._open[split]
        shard.size += len(line)
        shard.documents += 1
        if shard.size >= self._limit:
            self._close(split)
            self._open[split] = OpenShard(number=shard.number + 1)
            self._files[split] = self._open_file(split)

    def documents(self) -> dict[str, int]:
        """How many documents each split has so far."""
        closed = {split: sum(file.documents for file in self.closed if file.split == split) for split in SPLITS}
        return {split: closed[split] + shard.documents for split, shard in self._open.items()}

    def _close(self, split: str) -> None:
        shard, fd = self._open[split], self._files.pop(split)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        name = shard_name(split, shard.number)
        path = self._directory / name
        if shard.documents:
            self.closed.append(DataFile(name, shard.size, hashed(path, self._tick), split, shard.documents))
        else:
            path.unlink()

    def sync(self) -> dict[str, OpenShard]:
        """Make everything that was written durable; what the journal must know of the open shards."""
        for fd in self._files.values():
            os.fsync(fd)
        return {split: msgspec.structs.replace(shard) for split, shard in self._open.items()}

    def finish(self) -> tuple[DataFile, ...]:
        """Close the last shards; all files in order."""
        for split in SPLITS:
            self._close(split)
        return tuple(sorted(self.closed, key=lambda file: file.name))

    def abandon(self) -> None:
        """Close the files as they are; after `finish` there are none."""
        for fd in self._files.values():
            os.close(fd)


class Head(msgspec.Struct, frozen=True):
    """What is asked of a record to know it again."""

    id: str
    source: str
    group: str = ""


def heads_in(directory: Path) -> Iterator[tuple[str, Head]]:
    """(split, record) of the records in the shards of a directory. Raises DataError where a line is no record."""
    for path in sorted(directory.glob("*.jsonl")):
        if path.name.startswith(SPLITS):
            for _, line in whole_lines(path):
                try:
                    yield path.name.partition("-")[0], msgspec.json.decode(line, type=Head)
                except ValueError:  # msgspec's and UTF-8's own among them
                    raise DataError(f"{path} has a line that is no record") from None


def records(directory: Path, files: tuple[DataFile, ...], split: str) -> Iterator[ShardRecord]:
    """The records of a split, in order."""
    for file in files:
        if file.split == split:
            for _, line in whole_lines(directory / file.name):
                yield msgspec.json.decode(line, type=ShardRecord)
