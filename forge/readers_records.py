"""JSON, JSON lines and CSV: a record is a line, an item or a row; a bad one costs itself."""

import csv
from collections.abc import Iterator
from typing import IO

import msgspec

from adam.forge.documents import EXAMPLE_CHARS, Document
from adam.forge.files import File, SkippedError, ending, open_file
from adam.forge.templates import Template, unusable

LONGEST_LINE = 64 * 1024 * 1024  # bytes of one line of JSON lines or CSV; memory holds one line at a time
LARGEST_JSON = 256 * 1024 * 1024  # bytes of a .json file, which is one value and read whole
LONGEST_CELL = 4 * 1024 * 1024  # characters of a cell of CSV: a quote that is never closed takes no more rows with it
MARK = b"\xef\xbb\xbf"


def read_json(file: File, template: Template, first: int) -> Iterator[Document]:
    """A record, or a list of records."""
    with open_file(file) as opened:
        data = opened.read(LARGEST_JSON + 1)
    if len(data) > LARGEST_JSON:
        raise SkippedError("too_large")
    if b"\0" in data:
        raise SkippedError("binary")
    try:
        data.decode()
        value = msgspec.json.decode(data.removeprefix(MARK))
    except UnicodeDecodeError:
        raise SkippedError("not_utf8") from None
    except (msgspec.DecodeError, RecursionError):
        raise SkippedError("not_json") from None
    for record in (value if isinstance(value, list) else [value])[first:]:
        yield template.document(record)


def _lines(file: IO[bytes]) -> Iterator[bytes | None]:
    """The lines of a file; None for one that is too long to be held."""
    while line := file.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
            while (part := file.readline(LONGEST_LINE)) and not part.endswith(b"\n"):
                pass
            yield None
        else:
            yield line


def read_jsonl(file: File, template: Template, first: int) -> Iterator[Document]:
    """A record a line; a bad line costs that line."""
    with open_file(file) as opened:
        lines = (line for line in _lines(opened) if line is None or line.strip())
        for number, line in enumerate(lines):
            if number >= first:
                yield unusable("line_too_long") if line is None else _record(line, template)


def _record(line: bytes, template: Template) -> Document:
    try:
        if b"\0" in line:
            raise UnicodeDecodeError("utf-8", line, 0, 1, "binary")
        return template.document(msgspec.json.decode(line.removeprefix(MARK)))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return unusable("bad_line", line[:EXAMPLE_CHARS].decode(errors="replace"))


class _Rows:
    """The lines of a CSV file as text; those that are none are kept apart, in `bad`, and the others stay."""

    def __init__(self, file: IO[bytes]) -> None:
        self._lines = _lines(file)
        self.bad: list[Document] = []

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            try:
                if line is None:
                    self.bad.append(unusable("line_too_long"))
                elif b"\0" in line:
                    self.bad.append(unusable("bad_line", line[:EXAMPLE_CHARS].decode(errors="replace")))
                else:
                    yield line.decode("utf-8-sig")
            except UnicodeDecodeError:
                self.bad.append(unusable("bad_line", line[:EXAMPLE_CHARS].decode(errors="replace") if line else ""))


def read_csv(file: File, template: Template, first: int) -> Iterator[Document]:
    """A record a row; the first row names the columns. A row with more or fewer cells than it is dropped as bad_line."""
    csv.field_size_limit(LONGEST_CELL)
    with open_file(file) as opened:
        rows = _Rows(opened)
        for number, document in enumerate(_documents(rows, template, "\t" if ending(file.name) == ".tsv" else ",")):
            if number >= first:
                yield document


def _documents(rows: _Rows, template: Template, delimiter: str) -> Iterator[Document]:
    reader = csv.reader(iter(rows), delimiter=delimiter)
    header: list[str] | None = None
    while True:
        try:
            row = next(reader)
        except StopIteration:
            yield from rows.bad
            return
        except csv.Error as error:
            yield unusable("bad_line", str(error))
            continue
        yield from rows.bad
        rows.bad.clear()
        if header is None:
            header = row
        elif row:
            cells = dict(zip(header, row, strict=False))
            yield template.document(cells) if len(row) == len(header) else unusable("bad_line", row)
