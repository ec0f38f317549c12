"""How large the messages of an Arrow file are, from their headers: pyarrow holds a batch whole, however large it is.

The file format is the stream's messages between two magic words (the columnar format's specification, "IPC"); headers are flatbuffers
of Message.fbs (apache/arrow).
"""

import os
import struct
from typing import IO, NamedTuple

SCHEMA, DICTIONARY, BATCH = 1, 2, 3  # kinds of messages
END_BYTES = 8  # of the mark behind the last message
FILE_BEGIN = 8  # bytes before the first message of the file format
LARGEST_HEADER = 64 * 1024 * 1024


class Message(NamedTuple):
    """`size`: bytes of its body as they are held, unpacked; `rows` of a batch, else 0; `end`: where the next message begins."""

    kind: int
    rows: int
    size: int
    end: int


class _Table:
    """A table of a flatbuffer. Raises struct.error where it points out of its bytes."""

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at
        self._fields = at - self._read("<i", at)

    def _read(self, form: str, at: int) -> int:
        return int(struct.unpack_from(form, self._data, at)[0])

    def _place(self, field: int) -> int:
        """Where a field is; 0: it is not there."""
        place = 4 + 2 * field
        if place >= self._read("<H", self._fields):
            return 0
        offset = self._read("<H", self._fields + place)
        return self._at + offset if offset else 0

    def number(self, field: int, form: str) -> int:
        at = self._place(field)
        return self._read(form, at) if at else 0

    def table(self, field: int) -> "_Table | None":
        at = self._place(field)
        return _Table(self._data, at + self._read("<I", at)) if at else None

    def pairs(self, field: int) -> list[tuple[int, int]]:
        """A vector of structures of two int64."""
        at = self._place(field)
        if not at:
            return []
        at += self._read("<I", at)
        count = self._read("<I", at)
        return list(struct.iter_unpack("<qq", self._data[at + 4 : at + 4 + 16 * count]))


def next_message(file: IO[bytes], at: int) -> Message | None:
    """The message that begins at byte `at`; None behind the last one. Raises ValueError where there is none."""
    file.seek(at)
    begin = file.read(8)
    if len(begin) not in (0, 4, 8):
        raise ValueError(f"the file ends within the message at byte {at}")
    mark, length = struct.unpack("<II", begin.ljust(8, b"\0"))
    body = at + 8 + length
    if mark != 0xFFFFFFFF:  # as it was before 0.15: no mark
        length, body = mark, at + 4 + mark
        file.seek(at + 4)
    if not length:
        return None
    if length > LARGEST_HEADER:
        raise ValueError(f"a header of {length} bytes at byte {at}")
    header = file.read(length)
    try:
        message = _Table(header, struct.unpack_from("<I", header)[0])
        kind, size = message.number(1, "<B"), message.number(3, "<q")
        if kind not in (SCHEMA, DICTIONARY, BATCH):
            raise ValueError(f"a message of kind {kind} at byte {at}")
        batch = message.table(2)
        if batch is not None and kind == DICTIONARY:
            batch = batch.table(1)
        if not 0 <= size <= file.seek(0, os.SEEK_END) - body:
            raise ValueError(f"a body of {size} bytes at byte {at}")
        if batch is None or kind == SCHEMA:
            return Message(kind, 0, size, body + size)
        held = _unpacked(file, body, batch.pairs(2)) if batch.table(3) else size
        return Message(kind, max(0, batch.number(0, "<q")) if kind == BATCH else 0, held, body + size)
    except struct.error:
        raise ValueError(f"no message at byte {at}") from None


def _unpacked(file: IO[bytes], body: int, buffers: list[tuple[int, int]]) -> int:
    """Bytes of packed buffers once they are unpacked: each begins with that number, -1 where it is not packed."""
    held = 0
    for offset, length in buffers:
        if length >= 8:
            file.seek(body + offset)
            (size,) = struct.unpack("<q", file.read(8))
            held += size if size >= 0 else length
    return held
