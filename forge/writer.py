"""Shard files: one open for each split, closed at a size, cut back to what the journal knows."""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from adam.contract.durable import COPY_BLOCK, whole_lines, write_all
from adam.contract.errors import DataError
from adam.contract.shards import SOURCES, SPLITS, DataFile
from adam.forge.documents import ShardRecord
from adam.forge.journal import Journal, OpenShard

WAITING = 1 << 20  # bytes of lines that go to a file at once


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


class _File:
    """A shard that is being written. Its lines wait in memory until they are worth a call, and are hashed as they go out."""

    def __init__(self, directory: Path, split: str, shard: OpenShard, tick: Callable[[], object]) -> None:
        self._path, self._split, self.shard = directory / shard_name(split, shard.number), split, shard
        self.waiting, self._written = bytearray(), shard.size
        self._digest = hashlib.sha256()
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        for start in range(0, shard.size, COPY_BLOCK):  # by a forge that was killed
            self._digest.update(os.pread(self._fd, COPY_BLOCK, start))
            tick()

    def flush(self) -> None:
        if not self.waiting:
            return
        lines = bytes(self.waiting)
        self.waiting.clear()
        write_all(self._fd, lines)
        self._digest.update(lines)
        # The disk begins with them at once, and the next fsync finds little left to wait for (Linux: fadvise64 writes dirty pages).
        os.posix_fadvise(self._fd, self._written, len(lines), os.POSIX_FADV_DONTNEED)
        self._written += len(lines)

    def sync(self) -> OpenShard:
        """Make what was written durable; what the journal must know of it."""
        self.flush()
        os.fsync(self._fd)
        return msgspec.structs.replace(self.shard)

    def close(self) -> DataFile | None:
        """Its entry in the manifest; None where nothing was written, and the file is gone."""
        try:
            self.sync()
        finally:
            self.abandon()
        if not self.shard.documents:
            self._path.unlink()
            return None
        return DataFile(self._path.name, self.shard.size, self._digest.hexdigest(), self._split, self.shard.documents)

    def abandon(self) -> None:
        os.close(self._fd)


class ShardWriter:
    """Writes records to the split's open shard.

    Args:
        directory: where the shards are built, cut back to `journal`.
        limit: bytes at which a shard is closed.
        tick: a sign of life while a shard that was begun before is read.
    """

    def __init__(self, directory: Path, limit: int, journal: Journal, tick: Callable[[], object]) -> None:
        self._directory, self._limit, self._tick = directory, limit, tick
        self.closed = list(journal.closed)
        self._encode_into = msgspec.json.Encoder().encode_into
        self._files: dict[str, _File] = {}
        for split in SPLITS:
            self._open(split, msgspec.structs.replace(journal.shards.get(split, OpenShard())))

    def _open(self, split: str, shard: OpenShard) -> None:
        self._files[split] = _File(self._directory, split, shard, self._tick)

    def write(self, split: str, record: ShardRecord) -> None:
        file = self._files[split]
        shard, waiting = file.shard, file.waiting
        before = len(waiting)
        self._encode_into(record, waiting, before)
        waiting += b"\n"
        size = len(waiting)
        shard.size += size - before
        shard.documents += 1
        if shard.size >= self._limit:
            self._close(split)
            self._open(split, OpenShard(number=shard.number + 1))
        elif size >= WAITING:
            file.flush()

    def documents(self) -> dict[str, int]:
        """How many documents each split has so far."""
        closed = {split: sum(file.documents for file in self.closed if file.split == split) for split in SPLITS}
        return {split: closed[split] + file.shard.documents for split, file in self._files.items()}

    def _close(self, split: str) -> None:
        if (entry := self._files.pop(split).close()) is not None:
            self.closed.append(entry)

    def sync(self) -> dict[str, OpenShard]:
        """Make everything that was written durable; what the journal must know of the open shards."""
        return {split: file.sync() for split, file in self._files.items()}

    def finish(self) -> tuple[DataFile, ...]:
        """Close the last shards; all files in order."""
        for split in SPLITS:
            self._close(split)
        return tuple(sorted(self.closed, key=lambda file: file.name))

    def abandon(self) -> None:
        """Close the files as they are, without what waits: the journal knows nothing of it. After `finish` there are none."""
        for file in self._files.values():
            file.abandon()


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
