"""Parquet and Arrow files: only the columns that a template names are read, some rows at a time, from any row on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from adam.forge.documents import Document
from adam.forge.files import File, SkippedError, extra, open_file
from adam.forge.templates import Template, unusable

ROWS = 64  # held at once: rows may be books


def read_parquet(file: File, template: Template, first: int) -> Iterator[Document]:
    """A record a row; begins at the row group that has row `first` in it. Raises SkippedError where the file is none."""
    parquet = extra("pyarrow.parquet", "Parquet files")
    with open_file(file) as opened, _readable(opened):
        table = parquet.ParquetFile(opened)
        columns = _columns(template, table.schema_arrow.names)
        before = group = 0
        while group < table.num_row_groups and before + table.metadata.row_group(group).num_rows <= first:
            before += table.metadata.row_group(group).num_rows
            group += 1
        groups = list(range(group, table.num_row_groups))
        if groups:
            batches = table.iter_batches(ROWS, row_groups=groups, columns=columns, use_threads=False)
            yield from _rows(batches, template, first - before)


def read_arrow(file: File, template: Template, first: int) -> Iterator[Document]:
    """A record a row, of Arrow's file or stream format. Raises SkippedError where the file is neither."""
    arrow = extra("pyarrow", "Arrow files")
    with open_file(file) as opened, _readable(opened):
        is_file = opened.read(6) == b"ARROW1"
        opened.seek(0)
        if is_file:
            reader = arrow.ipc.open_file(opened)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            batches = reader = arrow.ipc.open_stream(opened)
        columns = _columns(template, reader.schema.names)
        small = (part for batch in batches for part in _small(batch.select(columns)))
        yield from _rows(small, template, first)


def _small(batch: Any) -> Iterator[Any]:
    for start in range(0, batch.num_rows, ROWS):
        yield batch.slice(start, ROWS)


def _columns(template: Template, there: list[str]) -> list[str]:
    found = [name for name in template.columns if name in there]
    if not found:
        raise SkippedError("no_such_column")
    return found


def _rows(batches: Iterator[Any], template: Template, skip: int) -> Iterator[Document]:
    for batch in batches:
        if skip >= batch.num_rows:
            skip -= batch.num_rows
            continue
        whole = _is_valid(batch)
        columns = {name: batch.column(number) for number, name in enumerate(batch.schema.names)}
        for row in range(skip, batch.num_rows):
            good = whole or _is_valid(batch.slice(row, 1))
            yield _row(columns, row, template) if good else unusable("bad_row")
        skip = 0


def _is_valid(batch: Any) -> bool:
    """Whether values may be looked at: an offset that points anywhere ends the process, not with an exception."""
    try:
        batch.validate(full=True)
    except ValueError:
        return False
    return True


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
