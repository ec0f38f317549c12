"""Parquet and Arrow files: only the columns that a template names are read, some rows at a time, from any row on.

pyarrow holds whole pages and batches. Those that are larger than memory allows are not read: their rows are dropped as row_too_large.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import IO, Any

from adam.forge.documents import Document
from adam.forge.files import File, SkippedError, extra, open_file
from adam.forge.pages_arrow import BATCH, END_BYTES, FILE_BEGIN, Message, next_message
from adam.forge.pages_parquet import page_sizes
from adam.forge.templates import Template, unusable

ROWS = 64  # held at once: rows may be books
HELD = (
    64 * 1024 * 1024
)  # bytes of rows that are held at once where rows are larger than that; a row that is, is not held
LARGEST_PAGE = 384 * 1024 * 1024  # bytes of a page or batch; pyarrow holds it three times
MOST_LOST = 10_000_000  # rows that are told one by one where they are not read; a damaged file may speak of any number
STREAMED = 8 * 1024 * 1024  # bytes of a large column chunk that are read at once


def read_parquet(file: File, template: Template, first: int) -> Iterator[Document]:
    """A record a row; begins at the row group that has row `first` in it. Raises SkippedError where the file is none."""
    parquet = extra("pyarrow.parquet", "Parquet files")
    with open_file(file) as opened, _readable(opened):
        table = parquet.ParquetFile(opened)
        columns = _columns(template, table.schema_arrow.names)
        streamed = parquet.ParquetFile(opened, metadata=table.metadata, buffer_size=STREAMED)
        before = 0
        for number in range(table.num_row_groups):
            group = table.metadata.row_group(number)
            skip, before = max(0, first - before), before + group.num_rows
            if 0 < group.num_rows <= skip:
                continue
            largest, at_once = _room(opened, table, group, columns)
            left = max(0, group.num_rows - skip)
            if largest > LARGEST_PAGE:
                yield from _lost(left, "a page", largest)
                continue
            chosen = streamed if group.total_byte_size > LARGEST_PAGE else table
            batches = chosen.iter_batches(at_once, row_groups=[number], columns=columns, use_threads=False)
            yield from _all_of(_rows(batches, template, skip), left)


def _all_of(rows: Iterator[Document], count: int) -> Iterator[Document]:
    """`rows`. Raises ValueError behind them where they are not `count`: pyarrow believes the columns, or the row group, and says nothing."""
    given = 0
    for row in rows:
        given += 1
        yield row
    if given != count:
        raise ValueError(f"{given} rows of {count}")


def _room(opened: IO[bytes], table: Any, group: Any, columns: list[str]) -> tuple[int, int]:
    """(bytes of the largest page that may be too large, rows that are read at once) of a row group.

    Raises ValueError where its numbers contradict.
    """
    if group.num_rows < 0:
        raise ValueError(f"a group of {group.num_rows} rows")
    largest = row = 0  # bytes
    for number in range(group.num_columns):
        chunk = group.column(number)
        if chunk.path_in_schema.partition(".")[0] in columns:
            if table.schema.column(number).max_repetition_level == 0 and chunk.num_values != group.num_rows:
                raise ValueError(f"a column of {chunk.num_values} values in a group of {group.num_rows} rows")
            size = chunk.total_uncompressed_size
            if size > LARGEST_PAGE:
                largest = max(largest, max(page_sizes(opened, chunk), default=0))
            elif chunk.has_dictionary_page and size > HELD // ROWS:
                # A value of the dictionary may stand in every row.
                largest = max(largest, next(page_sizes(opened, chunk), 0))
            row = max(row, size // max(1, group.num_rows), largest)
    return largest, max(1, min(ROWS, HELD // max(1, row)))


def read_arrow(file: File, template: Template, first: int) -> Iterator[Document]:
    """A record a row, of Arrow's file or stream format. Raises SkippedError where the file is neither."""
    arrow = extra("pyarrow", "Arrow files")
    with open_file(file) as opened, _readable(opened):
        is_file = opened.read(6) == b"ARROW1"
        opened.seek(0)
        reader = arrow.ipc.open_file(opened) if is_file else arrow.ipc.open_stream(opened)
        columns = _columns(template, reader.schema.names)
        batches = _of_file(reader, opened) if is_file else _of_stream(reader, opened)
        yield from _rows((part for batch in batches for part in _small(batch, columns)), template, first)


def _of_file(reader: Any, opened: IO[bytes]) -> Iterator[Any]:
    """The batches; a Message for one that is too large to be read."""
    at = FILE_BEGIN
    for number in range(reader.num_record_batches):
        message = _next_batch(opened, at)
        if message is None:
            raise ValueError(f"no batch {number}")
        at = message.end
        yield message if message.size > LARGEST_PAGE else reader.get_batch(number)


def _of_stream(reader: Any, opened: IO[bytes]) -> Iterator[Any]:
    """As `_of_file`. `opened` is where the reader reads: behind a batch that is too large it goes on with the next."""
    at = opened.tell()
    while message := _next_batch(opened, at):
        large = message.size > LARGEST_PAGE
        opened.seek(message.end if large else at)
        yield message if large else reader.read_next_batch()
        at = message.end
    if opened.seek(0, os.SEEK_END) > at + END_BYTES:
        raise ValueError(f"more behind the end at byte {at}")


def _next_batch(opened: IO[bytes], at: int) -> Message | None:
    """The next message with rows. Raises SkippedError where a dictionary before it is too large to be held."""
    message = next_message(opened, at)
    while message is not None and message.kind != BATCH:
        if message.size > LARGEST_PAGE:
            raise SkippedError("too_large")
        message = next_message(opened, message.end)
    return message


def _small(batch: Any, columns: list[str]) -> Iterator[Any]:
    if isinstance(batch, Message):
        yield batch
        return
    chosen = batch.select(columns)
    for start in range(0, chosen.num_rows, ROWS):
        yield chosen.slice(start, ROWS)


def _columns(template: Template, there: list[str]) -> list[str]:
    found = [name for name in template.columns if name in there]
    if not found:
        raise SkippedError("no_such_column")
    return found


def _rows(batches: Iterator[Any], template: Template, skip: int) -> Iterator[Document]:
    before = 0
    for batch in batches:
        count = batch.rows if isinstance(batch, Message) else batch.num_rows
        start, before = max(0, skip - before), before + count
        if start >= count:
            continue
        if isinstance(batch, Message):
            yield from _lost(count - start, "a batch", batch.size)
            continue
        whole = not _wrong(batch)
        large = whole and batch.nbytes > HELD
        columns = {name: batch.column(number) for number, name in enumerate(batch.schema.names)}
        for row in range(start, count):
            if not whole and (why := _wrong(batch.slice(row, 1))):
                yield unusable("bad_row", why)
            elif (large or not whole) and (size := batch.slice(row, 1).nbytes) > HELD:
                yield _too_large("a row", size, HELD)
            else:
                yield _row(columns, row, template)


def _lost(rows: int, what: str, size: int) -> Iterator[Document]:
    if rows > MOST_LOST:
        raise ValueError(f"{rows} rows")
    return repeat(_too_large(what, size, LARGEST_PAGE), rows)


def _too_large(what: str, size: int, most: int) -> Document:
    return unusable("row_too_large", f"{what} of {size:,} bytes; up to {most:,} are read")


def _wrong(batch: Any) -> str:
    """Why values may not be looked at: an offset that points anywhere ends the process, not with an exception. Empty: they may."""
    try:
        batch.validate(full=True)
    except ValueError as error:
        return str(error)
    return ""


def _row(columns: dict[str, Any], row: int, template: Template) -> Document:
    return template.document({name: column[row].as_py() for name, column in columns.items()})


@contextmanager
def _readable(opened: Any) -> Iterator[None]:
    """What pyarrow says of bytes that are no table comes as SkippedError; that a file can't be read stays what it is."""
    try:
        yield
    except (ValueError, OSError, KeyError, NotImplementedError, MemoryError):
        if getattr(getattr(opened, "raw", None), "trouble", None) is not None:
            raise
        raise SkippedError("damaged") from None
