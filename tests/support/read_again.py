"""What a file must give, read by other means than the forge's: so that a silent loss is seen.

`check_named(name)(data, found, skipped)` raises AssertionError where a document is missing, too many or another one, or where a file was
refused for no reason.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable
from pathlib import PurePosixPath

from forge_files import PACKERS

Check = Callable[[bytes, list, str], None]
OTHERS = re.compile(
    r"NaN|Infinity|\\u[dD][89a-fA-F]|\d{300}|[eE]\d{3}"
)  # Python's json reads these; JSON has none, or no bound


def check_named(name: str) -> Check:
    """The check for files of that name. `found`: the documents, dropped ones too; `skipped`: why the (rest of the) file can't be used."""
    path = PurePosixPath(name)
    if path.suffix not in PACKERS:
        return CHECKS.get(path.suffix, text)

    def inside(data: bytes, found: list, skipped: str) -> None:
        plain = unpacked(path.suffix, data)
        if plain is None:
            assert skipped, "a file that is damaged was taken for a whole one"
        else:
            assert skipped != "damaged"
            check_named(path.stem)(plain, found, skipped)

    return inside


def unpacked(suffix: str, data: bytes) -> bytes | None:
    """All members of a packed file, by the library's one call for it; None: it is damaged."""
    try:
        match suffix:
            case ".gz":
                return gzip.decompress(data)
            case ".xz" | ".bz2":
                return _members(suffix, data)
            case _:
                import pyarrow as pa

                return pa.CompressedInputStream(io.BytesIO(data), "zstd").read()
    except (OSError, EOFError, zlib.error, lzma.LZMAError):
        return None


def _members(suffix: str, data: bytes) -> bytes | None:
    found, stripped = b"", data
    while stripped:
        one = bz2.BZ2Decompressor() if suffix == ".bz2" else lzma.LZMADecompressor(lzma.FORMAT_AUTO)
        found += one.decompress(stripped)
        if not one.eof:
            return None
        stripped = one.unused_data
        if suffix == ".xz":
            stripped = stripped.lstrip(b"\0")  # padding of streams
    return found


def newlines(value: str) -> str:
    return re.sub("\r\n|\r", "\n", value)


def text(data: bytes, found: list, skipped: str) -> None:
    """Prose and code: the whole file, to the character."""
    if b"\0" in data:
        assert (found, skipped) == ([], "binary")
        return
    try:
        expected = newlines(data.decode().removeprefix("\ufeff"))
    except UnicodeDecodeError:
        assert (found, skipped) == ([], "not_utf8")
        return
    assert not skipped
    assert "".join(document.text for document in found) == expected


def _text_of(record: object) -> str | None:
    value = record if isinstance(record, str) else record.get("text") if isinstance(record, dict) else None
    return newlines(value) if isinstance(value, str) else None


def jsonl(data: bytes, found: list, skipped: str) -> None:
    """Each line that holds anything is a document or a bad one, and it is bad only where it has no text."""
    lines = [line for line in data.split(b"\n") if line.strip()]
    assert not skipped
    assert len(found) == len(lines)
    for line, document in zip(lines, found, strict=True):
        _check_record(line, document)


def _check_record(line: bytes, document) -> None:
    try:
        expected = _text_of(json.loads(line.decode().removeprefix("\ufeff")))
    except (ValueError, RecursionError):
        assert document.dropped
        return
    if document.dropped:
        assert document.example
        assert expected is None or OTHERS.search(line.decode()) or b"\0" in line or _deep(line)
    else:
        assert document.text == expected


def _deep(line: bytes) -> bool:
    return line.count(b"[") + line.count(b"{") > 300


def chat(data: bytes, found: list, skipped: str) -> None:
    assert not skipped
    assert len(found) == sum(bool(line.strip()) for line in data.split(b"\n"))
    assert all(document.example for document in found if document.dropped)


def whole_json(data: bytes, found: list, skipped: str) -> None:
    try:
        value = json.loads(data.decode().removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        assert skipped
        assert not found
        return
    if skipped:
        assert skipped in ("not_json", "binary")
        assert OTHERS.search(data.decode()) or b"\0" in data or _deep(data)
        return
    records = value if isinstance(value, list) else [value]
    assert len(found) == len(records)
    for record, document in zip(records, found, strict=True):
        assert document.dropped or document.text == _text_of(record)
        assert not document.dropped or _text_of(record) is None


def table(delimiter: str):
    """CSV: each row of the lines that are text is a document or a bad one; each line that is none is a bad one."""

    def check_rows(data: bytes, found: list, skipped: str) -> None:
        lines, bad = [], 0
        for line in io.BytesIO(data):
            try:
                lines.append(line.decode("utf-8-sig"))
                if "\0" in lines[-1]:
                    lines.pop()
                    bad += 1
            except UnicodeDecodeError:
                bad += 1
        rows, left = _rows(lines, delimiter)
        if skipped:
            assert skipped == "bad_header"
            assert not found
            assert bad or not rows or not rows[0]
            return
        data_rows = [row for row in rows[1:] if row]
        good = (
            [newlines(row[rows[0].index("text")]) for row in data_rows if len(row) == len(rows[0])]
            if rows and "text" in rows[0]
            else []
        )
        if left is None:
            return  # the csv module found an error on the way: what it makes of the rest is not to be told
        assert len(found) == len(data_rows) + bad + sum(bool(line.strip("\r\n")) for line in left) - (
            not rows and bool(left)
        )
        texts = [document.text for document in found if not document.dropped]
        if rows and len(set(rows[0])) == len(rows[0]):
            assert texts[: len(good)] == good

    return check_rows


def _rows(lines: list[str], delimiter: str) -> tuple[list[list[str]], list[str] | None]:
    """(whole rows, lines behind a quote that is never closed), by a sentinel behind the last line; None: an error."""
    rows, ends = [], []
    reader = csv.reader([*lines, "\n", "sentinel"], delimiter=delimiter)
    try:
        for row in reader:
            rows.append(row)
            ends.append(reader.line_num)
    except csv.Error:
        return rows, None
    if rows and rows[-1] == ["sentinel"]:
        return rows[:-2], []
    begin = ends[-2] if len(ends) > 1 else 0
    return rows[:-1], lines[begin:]


def page(data: bytes, found: list, skipped: str) -> None:
    assert len(found) == (not skipped)
    if skipped:
        assert skipped in ("binary", "not_utf8", "not_html")
        assert skipped != "binary" or b"\0" in data


def pdf(data: bytes, found: list, skipped: str) -> None:
    assert bool(found) != bool(skipped)
    assert sum(not document.dropped for document in found) == bool(found)


def rows(data: bytes, found: list, skipped: str) -> None:
    """Parquet and Arrow: a file that is read to its end gives as many rows as it says that it has."""
    if skipped:
        return
    try:
        expected = _rows_said(data)
    except (OSError, ValueError):
        expected = -1
    assert len(found) == expected or any(document.dropped == "row_too_large" for document in found)


def _rows_said(data: bytes) -> int:
    import pyarrow as pa
    import pyarrow.parquet

    if data[-4:] == b"PAR1":
        metadata = pyarrow.parquet.ParquetFile(io.BytesIO(data)).metadata
        return sum(metadata.row_group(n).num_rows for n in range(metadata.num_row_groups))
    if data[:6] == b"ARROW1":
        reader = pa.ipc.open_file(io.BytesIO(data))
        return sum(reader.get_batch(n).num_rows for n in range(reader.num_record_batches))
    return sum(batch.num_rows for batch in pa.ipc.open_stream(io.BytesIO(data)))


CHECKS = {
    ".jsonl": jsonl, ".json": whole_json, ".csv": table(","), ".tsv": table("\t"), ".html": page, ".pdf": pdf,
    ".parquet": rows, ".arrow": rows,
}  # fmt: skip
