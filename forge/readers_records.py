"""JSON, JSON lines and CSV: a record is a line, an item or a row; a bad one costs itself."""

import csv
import re
from collections.abc import Iterator
from typing import IO, NamedTuple

import msgspec

from adam.forge.documents import EXAMPLE_CHARS, Document
from adam.forge.files import File, SkippedError, ending, open_file
from adam.forge.templates import Template, unusable

LONGEST_LINE = 64 * 1024 * 1024  # bytes of one line of JSON lines or CSV; memory holds one line at a time
LARGEST_JSON = 256 * 1024 * 1024  # bytes of a .json file, which is one value and read whole
LONGEST_CELL = 4 * 1024 * 1024  # characters of a cell of CSV
LONGEST_ROW = (
    2 * LONGEST_CELL
)  # characters of a row of CSV that has several lines: so far a quote is waited for that closes one
MOST_VALUES = 8_000_000  # of a JSON text: in memory each takes sixty bytes and more, `[{},{}]` twenty times its size
VALUES = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{,]', re.DOTALL)  # a text, or what stands before a value
MARK = b"\xef\xbb\xbf"


def read_json(file: File, template: Template, first: int) -> Iterator[Document]:
    """A record, or a list of records."""
    with open_file(file) as opened:
        data = opened.read(LARGEST_JSON + 1)
    if len(data) > LARGEST_JSON:
        raise SkippedError("too_large")
    if b"\0" in data:
        raise SkippedError("binary")
    if _too_many_values(data):
        raise SkippedError("too_many_values")
    try:
        data.decode()
        value = msgspec.json.decode(data.removeprefix(MARK))
    except UnicodeDecodeError:
        raise SkippedError("not_utf8") from None
    except (msgspec.DecodeError, RecursionError):
        raise SkippedError("not_json") from None
    for record in (value if isinstance(value, list) else [value])[first:]:
        yield template.document(record)


def _too_many_values(data: bytes) -> bool:
    """Whether a JSON text would take more memory than its size tells. Commas in texts are no values."""
    if len(data) <= MOST_VALUES or sum(map(data.count, (b"[", b"{", b","))) <= MOST_VALUES:
        return False
    return sum(not found[0].startswith(b'"') for found in VALUES.finditer(data)) > MOST_VALUES


class _Line(NamedTuple):
    """`begin` is all of it, or the beginning of one that is too long to be held."""

    begin: bytes
    too_long: bool


def _lines(file: IO[bytes]) -> Iterator[_Line]:
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
            line = line[:EXAMPLE_CHARS]
            while (part := file.readline(LONGEST_LINE)) and not part.endswith(b"\n"):
                pass
            yield _Line(line, True)
        else:
            yield _Line(line, False)


def _bad(line: _Line) -> Document:
    reason = "line_too_long" if line.too_long else "bad_line"
    return unusable(reason, line.begin[:EXAMPLE_CHARS].decode(errors="replace"))


def read_jsonl(file: File, template: Template, first: int) -> Iterator[Document]:
    """A record a line; a bad line costs that line."""
    with open_file(file) as opened:
        lines = (line for line in _lines(opened) if line.too_long or line.begin.strip())
        for number, line in enumerate(lines):
            if number >= first:
                yield _bad(line) if line.too_long else _record(line, template)


def _record(line: _Line, template: Template) -> Document:
    try:
        if b"\0" in line.begin:
            return _bad(line)
        if _too_many_values(line.begin):
            return unusable("too_many_values", line.begin[:EXAMPLE_CHARS].decode(errors="replace"))
        return template.document(msgspec.json.decode(line.begin.removeprefix(MARK)))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return _bad(line)


class _Lines:
    """The lines of a CSV file as text. Lines that are none are kept apart, in `bad`; those of a row that is not whole yet, in `row`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._lines = _lines(file)
        self._size = 0
        self.row: list[str] = []
        self.bad: list[Document] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """Raises csv.Error where a row does not end: in the file, or in what memory holds."""
        if self._size > LONGEST_ROW:
            raise csv.Error("the row is too long")
        for line in self._lines:
            text = self._decoded(line)
            if text is not None:
                self.row.append(text)
                self._size += len(text)
                return text
        if self.row:
            raise csv.Error("a quote is never closed")
        raise StopIteration

    def taken(self) -> list[str]:
        """The lines since the last call."""
        lines, self.row, self._size = self.row, [], 0
        return lines

    def _decoded(self, line: _Line) -> str | None:
        try:
            if not line.too_long and b"\0" not in line.begin:
                return line.begin.decode("utf-8-sig")
        except UnicodeDecodeError:
            pass  # told below, as other lines that are no text
        self.bad.append(_bad(line))
        return None


def read_csv(file: File, template: Template, first: int) -> Iterator[Document]:
    """A record a row; the first row names the columns. A row with more or fewer cells than it is dropped as bad_line.

    Raises SkippedError where the first row can't be read.
    """
    csv.field_size_limit(LONGEST_CELL)
    with open_file(file) as opened:
        delimiter = "\t" if ending(file.name) == ".tsv" else ","
        for number, document in enumerate(_documents(_Lines(opened), template, delimiter)):
            if number >= first:
                yield document


def _documents(lines: _Lines, template: Template, delimiter: str) -> Iterator[Document]:
    header: list[str] | None = None
    for row in _rows(lines, delimiter):
        if header is None:
            if not isinstance(row, list) or not row or lines.bad:
                raise SkippedError("bad_header")
            header = row
            continue
        yield from lines.bad
        lines.bad.clear()
        if isinstance(row, str):
            yield unusable("bad_line", row)
        elif row:
            cells = dict(zip(header, row, strict=False))
            yield template.document(cells) if len(row) == len(header) else unusable("bad_line", row)
    if header is None and lines.bad:
        raise SkippedError("bad_header")
    yield from lines.bad


def _rows(lines: _Lines, delimiter: str) -> Iterator[list[str] | str]:
    """The rows of a file; a line that is none comes as it is.

    Where a quote is never closed, that line is bad and those behind it are rows by themselves: else it would take all of them with it.
    """
    reader = csv.reader(lines, delimiter=delimiter)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            for line in lines.taken():
                yield _alone(line, delimiter)
            continue
        lines.taken()
        yield row


def _alone(line: str, delimiter: str) -> list[str] | str:
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True))
    except csv.Error:
        return line
