"""Shard files: one open for each split, closed at a size, cut back to what the journal knows."""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from adam.contract.durable import sha256_file, whole_lines
from adam.contract.shards import SPLITS, DataFile
from adam.forge.journal import OpenShard


class ShardRecord(msgspec.Struct, frozen=True):
    """A line of a shard."""

    text: str
    id: str
    source: str
    path: str


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:05d}.jsonl"


class ShardWriter:
    """Writes records to the split's open shard.

    Args:
        directory: where the shards are built.
        limit: bytes at which a shard is closed.
        shards, closed: of the journal; the files are cut to these sizes.
    """

    def __init__(self, directory: Path, limit: int, shards: dict[str, OpenShard], closed: tuple[DataFile, ...]) -> None:
        self._directory, self._limit = directory, limit
        self.closed = list(closed)
        self._open = {split: shards.get(split, OpenShard()) for split in SPLITS}
        self._remove_later_shards()
        self._files = {split: self._reopen(split, shard) for split, shard in self._open.items()}

    def _remove_later_shards(self) -> None:
        """Shards that were begun behind the journal's back are written again."""
        known = {file.name for file in self.closed} | {
            shard_name(split, shard.number) for split, shard in self._open.items()
        }
        for path in self._directory.glob("*-[0-9][0-9][0-9][0-9][0-9].jsonl"):
            if path.name not in known:
                path.unlink()

    def _reopen(self, split: str, shard: OpenShard) -> int:
        path = self._directory / shard_name(split, shard.number)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        os.ftruncate(fd, shard.size)
        return fd

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
            self._files[split] = self._reopen(split, self._open[split])

    def _close(self, split: str) -> None:
        shard = self._open[split]
        os.fsync(self._files[split])
        os.close(self._files[split])
        name = shard_name(split, shard.number)
        path = self._directory / name
        if shard.documents:
            self.closed.append(DataFile(name, shard.size, sha256_file(path), split, shard.documents))
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


def ids_in(directory: Path) -> Iterator[bytes]:
    """The hashes of the documents that are in the shards of a directory."""
    for path in sorted(directory.glob("*.jsonl")):
        if path.name.startswith(SPLITS):
            for _, line in whole_lines(path):
                yield bytes.fromhex(msgspec.json.decode(line, type=ShardRecord).id)


def texts(directory: Path, files: tuple[DataFile, ...], split: str) -> Iterator[str]:
    """The texts of a split, in order."""
    for file in files:
        if file.split == split:
            for _, line in whole_lines(directory / file.name):
                yield msgspec.json.decode(line, type=ShardRecord).text
