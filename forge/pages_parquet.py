"""How large the pages of a Parquet file are, from their headers: pyarrow unpacks a page whole, however large it is.

The headers are Thrift's compact protocol; the fields are those of `PageHeader` in parquet.thrift (apache/parquet-format).
"""

from collections.abc import Iterator
from typing import IO, Any

HEADER = 64 * 1024  # bytes; the statistics in it are cut by those who write them
UNPACKED, PACKED = 2, 3  # fields of PageHeader


class _Compact:
    """Bytes as Thrift's compact protocol. Raises IndexError where they end too early, ValueError where they are none."""

    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 0

    def _number(self) -> int:
        value = shift = 0
        while True:
            byte = self._data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("a number that is too long")

    def integers(self) -> dict[int, int]:
        """The whole numbers of a structure by the numbers of their fields; all else is passed over."""
        found, field = {}, 0
        while head := self._data[self.at]:
            self.at += 1
            field = field + (head >> 4) if head >> 4 else self._signed()
            match head & 15:
                case 1 | 2:
                    continue  # true and false are kinds
                case 4 | 5 | 6:
                    found[field] = self._signed()
                case kind:
                    self._pass(kind)
        self.at += 1
        return found

    def _signed(self) -> int:
        value = self._number()
        return value >> 1 ^ -(value & 1)

    def _pass(self, kind: int) -> None:
        match kind:
            case 3:
                self.at += 1
            case 7:
                self.at += 8
            case 8:
                length = self._number()
                self.at += length
            case 12:
                self.integers()
            case _:  # lists and maps: no header of a page has one
                raise ValueError(f"a value of kind {kind}")


def page_sizes(file: IO[bytes], chunk: Any) -> Iterator[int]:
    """Unpacked bytes of each page of a column chunk, its dictionary first. Raises ValueError where there are none."""
    at = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        at = min(at, chunk.dictionary_page_offset)
    end = at + chunk.total_compressed_size
    while at < end:
        file.seek(at)
        header = _Compact(file.read(HEADER))
        try:
            said = header.integers()
            size, packed = said[UNPACKED], said[PACKED]
        except (IndexError, KeyError, RecursionError):
            raise ValueError(f"no header of a page at byte {at}") from None
        if min(size, packed) < 0:
            raise ValueError(f"a page of {size} bytes")
        yield size
        at += header.at + packed
