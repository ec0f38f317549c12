"""The file of one rank in a snapshot slot: a safetensors file that a trainer writes and the keeper commits.

The file's first eight bytes (the length of the safetensors header) are zero while it is being written, and are set last:
it is complete or it is not. The header's `__metadata__` has `adam`: JSON of `SlotHead`, with the checksum (`contract.sums`) of every
tensor.

A file is flocked exclusively by its writer while it is written and shared by the keeper while it is copied. Rank 0's file guards the
slot: whoever wants several files locks rank 0's first, so that who has that one waits for no other.
"""

import fcntl
import hashlib
import json
import math
import mmap
import os
import struct
from pathlib import Path
from typing import Any

import msgspec

from adam.contract.durable import is_at
from adam.contract.errors import CheckpointError, DiskError
from adam.contract.steplog import NO_ROW, RowKey

SLOT_SCHEMA = 2  # 2: the header has a digest of itself
PAGE_BYTES = 4096  # of memory, and of `contract.sums`
PADDING = "padding."
RAM, MILESTONE = "ram", "milestone"  # why a snapshot is taken: the last resort of a killed trainer; to be kept for ever
ITEM_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}


class TensorEntry(msgspec.Struct, frozen=True):
    """A tensor of a slot: `dtype` is a safetensors name, as in ITEM_BYTES."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def aligned(entries: list[TensorEntry]) -> list[TensorEntry]:
    """`entries` with padding between them, so that each begins on a page of the payload (safetensors allows no holes)."""
    found: list[TensorEntry] = []
    for entry in entries:
        found.append(entry)
        if rest := entry.nbytes % PAGE_BYTES:
            found.append(TensorEntry(f"{PADDING}{len(found):05d}", "U8", (PAGE_BYTES - rest,)))
    return found


class Part(msgspec.Struct, frozen=True):
    """Which part of a tensor that several ranks share a file holds: from `start` on along the first dimension of `shape`."""

    shape: tuple[int, ...]  # of the whole tensor
    start: int


class SlotHead(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot says of itself. `state` is the trainer's own (integers and strings only)."""

    schema: int = SLOT_SCHEMA
    run: str  # the run directory's identity
    attempt: int
    token: int
    sequence: int  # counts the snapshots of an attempt
    step: int
    tokens: int
    samples: int  # data position: the first sample that is not yet trained on
    saves: int  # the last save request that this snapshot answers
    why: str  # RAM, MILESTONE, interval, request, stop, final
    durable: bool = True  # to be committed; else it is for the next attempt, as long as the memory lasts
    logged: RowKey = NO_ROW  # the newest row of the log of steps when it was taken
    rank: int = 0
    world: int = 1  # ranks, a file each, that make up the snapshot
    parent: str  # the checkpoint that this attempt started from; empty: none
    fingerprint: str  # of the numerics: equal fingerprints give equal bits
    config_digest: str
    state: dict[str, Any]
    parts: dict[str, Part] = {}  # of the tensors that are not whole
    sums: dict[str, str] = {}  # `contract.sums` of each tensor's bytes


class SlotWriter:
    """A slot of a fixed list of tensors, mapped into memory and written again and again.

    Args:
        path: the slot's file; made, and its blocks allocated, on first use.
        entries: the tensors, in file order.

    Raises DiskError where there is no room for it; nothing is then left behind.
    """

    def __init__(self, path: Path, entries: list[TensorEntry]) -> None:
        self.path = path
        self._entries = {entry.name: entry for entry in entries}
        self._offsets, offset = {}, 0
        for entry in entries:
            self._offsets[entry.name] = offset
            offset += entry.nbytes
        self._payload = offset
        # Room for the metadata: the state, a checksum and a part for each tensor; the rest stays blank, as safetensors allows.
        reserve = len(self._header({})) + sum(200 + 2 * len(entry.name) for entry in entries) + 16384
        self._header_bytes = -(-(reserve + 8) // PAGE_BYTES) * PAGE_BYTES - 8  # the payload begins on a page
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._allocate()
        self._map = mmap.mmap(self._fd, self.size)

    @property
    def size(self) -> int:
        return 8 + self._header_bytes + self._payload

    def _allocate(self) -> None:
        status = os.fstat(self._fd)
        existing = status.st_size
        if existing == self.size and status.st_blocks * 512 >= existing:
            return  # what an attempt before this one has made: to go through 33 GB of pages again takes a second
        try:
            os.posix_fallocate(self._fd, 0, self.size)
        except OSError as error:
            if existing == 0:
                self.path.unlink(missing_ok=True)
            os.close(self._fd)
            raise DiskError(
                f"no room for a snapshot of {self.size} bytes at {self.path}: {error.strerror}", "free some space"
            ) from None
        if existing > self.size:
            os.ftruncate(self._fd, self.size)

    def is_there(self) -> bool:
        """See `durable.is_at`."""
        return is_at(self._fd, self.path)

    def lock(self, *, wait: bool = False) -> bool:
        """Take the slot as it is. False where the keeper is copying it."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def begin(self) -> bool:
        """Take the slot and mark it incomplete. False where the keeper is copying it: the slot is then as it was."""
        if not self.lock():
            return False
        self._map[:8] = bytes(8)
        return True

    def span(self, name: str) -> tuple[int, int]:
        """Where the bytes of a tensor begin and end in the payload."""
        start = self._offsets[name]
        return start, start + self._entries[name].nbytes

    def payload(self) -> memoryview:
        """The bytes of all tensors."""
        return memoryview(self._map)[8 + self._header_bytes :]

    def buffer(self, name: str) -> memoryview:
        """The bytes of a tensor, to be written in place."""
        start, end = self.span(name)
        return self.payload()[start:end]

    def complete(self, head: SlotHead) -> None:
        """Write the header, then the length that makes the file valid, and let it go. `head.sums` has every tensor's checksum."""
        metadata = msgspec.json.encode(head).decode()
        header = self._header({"adam": metadata, "digest": _digest(metadata, self._table())})
        if len(header) > self._header_bytes:
            raise ValueError(
                f"slot header of {len(header)} bytes, {self._header_bytes} reserved: the state is too large"
            )
        self._map[8 : 8 + self._header_bytes] = header.ljust(self._header_bytes)
        self._map[:8] = struct.pack("<Q", self._header_bytes)
        self.unlock()

    def _header(self, metadata: dict[str, str]) -> bytes:
        return json.dumps({"__metadata__": metadata, **self._table()}, separators=(",", ":")).encode()

    def _table(self) -> dict[str, Any]:
        return {
            name: {
                "dtype": entry.dtype,
                "shape": list(entry.shape),
                "data_offsets": [self._offsets[name], self._offsets[name] + entry.nbytes],
            }
            for name, entry in self._entries.items()
        }

    def close(self) -> None:
        self._map.close()
        os.close(self._fd)


class TensorPlace(msgspec.Struct, frozen=True):
    """Where a tensor lies: bytes `start` to `end` of its file."""

    entry: TensorEntry
    start: int
    end: int


def _digest(metadata: str, table: dict[str, Any]) -> str:
    """SHA-256 of what a header says, however it is laid out."""
    said = json.dumps([metadata, table], separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def read_head(path: Path) -> tuple[SlotHead, dict[str, TensorPlace]] | None:
    """The head and the tensors' places of a complete slot or committed file; None where it is missing or incomplete.

    Raises CheckpointError where the header is there but makes no sense.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if length == 0:
                return None
            if 8 + length > size:
                raise CheckpointError(f"{path} is truncated: header of {length} bytes in a file of {size}")
            header = file.read(length)
    except FileNotFoundError:
        return None
    try:
        head, places = _decoded(header, 8 + length)
        whole = all(place.end <= size and place.end - place.start == place.entry.nbytes for place in places.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} has no readable header ({error})") from None
    if not whole:
        raise CheckpointError(f"{path} is truncated: its tensors do not fit into {size} bytes")
    return head, places


def _decoded(header: bytes, base: int) -> tuple[SlotHead, dict[str, TensorPlace]]:
    """Raises ValueError and its like where the header is not what was written, or a newer Adam wrote it."""
    table = json.loads(header)
    metadata = table.pop("__metadata__")
    head = msgspec.json.decode(metadata["adam"], type=SlotHead)
    if head.schema > SLOT_SCHEMA:
        raise ValueError(f"it has schema {head.schema}, this Adam knows up to {SLOT_SCHEMA}: upgrade Adam")
    if (head.schema > 1 or "digest" in metadata) and metadata.get("digest") != _digest(metadata["adam"], table):
        raise ValueError("it is not what was written")
    return head, {name: _place(name, item, base) for name, item in table.items()}


def _place(name: str, item: dict[str, Any], base: int) -> TensorPlace:
    start, end = item["data_offsets"]
    return TensorPlace(TensorEntry(name, item["dtype"], tuple(item["shape"])), base + start, base + end)
