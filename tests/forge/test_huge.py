"""A line of four gigabytes, in every format that can have one, and cells and values of more than one: read in bounded memory."""

import gzip
import io
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from adam.contract.config_forge import Forge, Source
from adam.forge import pages_arrow, readers_tables
from adam.forge.files import SkippedError
from adam.forge.readers_records import LONGEST_LINE
from adam.forge.sources import documents, open_source

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

GIGABYTES = 4
MOST_MEMORY = 1_500_000_000

READ = """
import json, re, sys
from pathlib import Path
from adam.contract.config_forge import Forge, Source
from adam.forge.files import SkippedError
from adam.forge.sources import documents, open_source
path = Path(sys.argv[1])
found, characters, skipped = {}, 0, ""
try:
    for document in documents(path, open_source(Source(path=str(path)), Forge(), path.parent)):
        found[document.dropped] = found.get(document.dropped, 0) + 1
        characters += len(document.text)
except SkippedError as error:
    skipped = str(error)
# Not getrusage: its peak is also that of the process that started this one.
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps([found, characters, skipped, peak]))
"""


def read(path: Path):
    done = subprocess.run(
        [sys.executable, "-P", "-c", READ, str(path)], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    found, characters, skipped, memory = json.loads(done.stdout)
    assert memory < MOST_MEMORY
    return found, characters, skipped


def sparse(path: Path, gigabytes: float, before: bytes = b"", after: bytes = b"") -> Path:
    """A file with a hole: as large as that, and no disk is needed."""
    with path.open("wb") as file:
        file.write(before)
        file.truncate(int(gigabytes * 1e9))
        file.seek(0, os.SEEK_END)
        file.write(after)
    return path


def packed(path: Path, gigabytes: float, block: bytes, after: bytes = b"") -> Path:
    """So much of `block`, in gzip's members."""
    member = gzip.compress(block * (64_000_000 // len(block)), 1)
    path.write_bytes(member * round(gigabytes * 1e9 / 64e6) + gzip.compress(after))
    return path


GOOD = b'{"text": "a good line"}\n'


@pytest.mark.campaign
@pytest.mark.timeout(3000)
def test_a_line_of_four_gigabytes_costs_that_line(tmp_path) -> None:
    path = sparse(tmp_path / "a.jsonl", GIGABYTES, GOOD, b"\n" + GOOD)
    assert read(path) == ({"": 2, "line_too_long": 1}, 22, "")
    path = sparse(tmp_path / "a.csv", GIGABYTES, b"text\ngood\n", b"\ngood\n")
    assert read(path) == ({"": 2, "line_too_long": 1}, 8, "")
    path = packed(tmp_path / "a.jsonl.gz", GIGABYTES, b"x", b"\n" + GOOD)
    assert read(path) == ({"": 1, "line_too_long": 1}, 11, "")


@pytest.mark.campaign
@pytest.mark.timeout(3000)
def test_four_gigabytes_of_prose_are_read_and_other_files_refused(tmp_path) -> None:
    path = packed(tmp_path / "a.txt.gz", GIGABYTES, b"x")
    found, characters, skipped = read(path)
    assert (set(found), skipped) == ({""}, "")
    assert characters == round(GIGABYTES * 1e9 / 64e6) * 64_000_000
    for name, reason in (("a.json", "too_large"), ("a.py", "too_large"), ("a.html", "too_large"), ("a.pdf", "too_large"), ("a.txt", "binary"),
                         ("a.parquet", "damaged"), ("a.arrow", "damaged")):  # fmt: skip
        path = sparse(tmp_path / name, GIGABYTES)
        assert read(path) == ({}, 0, reason)
        path.unlink()


def test_a_line_above_the_limit_costs_that_line(tmp_path) -> None:
    """As above with a little more than the limit."""
    path = sparse(tmp_path / "a.jsonl", LONGEST_LINE * 1.2 / 1e9, GOOD, b"\n" + GOOD)
    assert path.stat().st_blocks * 512 < 1_000_000 or os.uname().sysname != "Linux"
    assert read(path) == ({"": 2, "line_too_long": 1}, 22, "")


def tables(folder: Path, groups: list[list[str]]) -> list[Path]:
    """The same rows as Parquet with a row group each, and as Arrow with a batch each: file, stream, packed file, packed stream."""
    schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
    batches = [pa.record_batch([pa.array(range(len(group))), pa.array(group)], schema=schema) for group in groups]
    paths = [folder / name for name in ("a.parquet", "b.arrow", "c.arrow", "d.arrow", "e.arrow")]
    with parquet.ParquetWriter(paths[0], schema, compression="zstd", use_dictionary=False) as writer:
        for batch in batches:
            writer.write_batch(batch)
    packed = pa.ipc.IpcWriteOptions(compression="zstd")
    for path, new, options in zip(
        paths[1:], [pa.ipc.new_file, pa.ipc.new_stream] * 2, [None, None, packed, packed], strict=True
    ):
        with new(str(path), schema, options=options) as writer:
            for batch in batches:
                writer.write_batch(batch)
    return paths


def found_in(path: Path, first: int = 0) -> list[tuple[str, str]]:
    """(text, why it was dropped), each drop with something to look at."""
    found = list(documents(path, open_source(Source(path=str(path)), Forge(), path.parent), first))
    assert all(document.example for document in found if document.dropped)
    return [(document.text, document.dropped) for document in found]


def test_pages_and_batches_above_the_limit_cost_their_rows(tmp_path, monkeypatch) -> None:
    """As below, with a limit of 100 kB; the same from any row on."""
    monkeypatch.setattr(readers_tables, "LARGEST_PAGE", 100_000)
    monkeypatch.setattr(readers_tables, "HELD", 20_000)
    small = [f"row {n}" for n in range(10)]
    groups = [small, ["x" * 200_000, *small], small, [*small, "y" * 50_000, "z"], small]
    expected = [(row, "") for row in small] + [("", "row_too_large")] * 11 + [(row, "") for row in small * 2]
    expected += [("", "row_too_large"), ("z", ""), *((row, "") for row in small)]
    for path in tables(tmp_path, groups):
        for first in (0, 5, 10, 15, 21, 41, 42, 60):
            assert found_in(path, first) == expected[first:], (path.name, first)


def test_a_batch_that_says_to_be_larger_than_its_file_is_damaged(tmp_path) -> None:
    """Else its rows, of which it may have any number, would be told one by one."""
    for path, at in zip(tables(tmp_path, [["row"] * 10])[1:3], (pages_arrow.FILE_BEGIN, 0), strict=True):
        data = path.read_bytes()
        schema = pages_arrow.next_message(io.BytesIO(data), at)
        size = pages_arrow.next_message(io.BytesIO(data), schema.end).size
        path.write_bytes(data.replace(struct.pack("<q", size), struct.pack("<q", 1 << 50)))
        with pytest.raises(SkippedError, match="damaged"):
            found_in(path)


def test_a_stream_with_a_message_of_no_kind_or_more_behind_its_end_is_no_whole_one(tmp_path) -> None:
    path = tables(tmp_path, [["row"] * 10])[2]
    data = path.read_bytes()
    schema = pages_arrow.next_message(io.BytesIO(data), 0)
    batch = data[schema.end :]
    at = batch.index(b"\x03\x04\x00")  # kind: a record batch; version: 5
    for damaged in (data + data, data[: schema.end] + batch[:at] + b"\x00" + batch[at + 1 :]):
        path.write_bytes(damaged)
        with pytest.raises(SkippedError, match="damaged"):
            found_in(path)


def test_a_large_row_group_of_small_pages_is_read(tmp_path, monkeypatch) -> None:
    """And a value of its dictionary that stands in every row takes memory for a few rows only."""
    monkeypatch.setattr(readers_tables, "LARGEST_PAGE", 100_000)
    monkeypatch.setattr(readers_tables, "HELD", 20_000)
    rows = [f"{n} words of many rows" for n in range(20_000)]
    table = pa.table({"text": rows})
    parquet.write_table(table, tmp_path / "a.parquet", data_page_size=4096, use_dictionary=False)
    assert parquet.read_metadata(tmp_path / "a.parquet").row_group(0).total_byte_size > 400_000
    assert found_in(tmp_path / "a.parquet", 7) == [(row, "") for row in rows[7:]]
    parquet.write_table(pa.table({"text": ["w" * 15_000] * 100}), tmp_path / "b.parquet")
    sizes = []
    real = parquet.ParquetFile.iter_batches
    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", lambda *a, **k: (sizes.append(a[1]), real(*a, **k))[1])
    assert found_in(tmp_path / "b.parquet") == [("w" * 15_000, "")] * 100
    assert sizes == [1]


@pytest.mark.campaign
@pytest.mark.timeout(3000)
def test_a_cell_of_a_gigabyte_costs_its_row_group_or_batch(tmp_path) -> None:
    small = [f"row {n}" for n in range(10)]
    for path in tables(tmp_path, [small, ["x" * 1_200_000_000, *small], small]):
        assert read(path) == ({"": 20, "row_too_large": 11}, 100, "")
        path.unlink()
    parquet.write_table(
        pa.table({"text": ["w" * 30_000_000] * 100}), tmp_path / "a.parquet", dictionary_pagesize_limit=1 << 28
    )
    assert read(tmp_path / "a.parquet") == ({"": 100}, 3_000_000_000, "")
    rows = [str(n) * 100_000 for n in range(10)] * 300  # 300 MB, many of them in a page
    parquet.write_table(pa.table({"text": rows}), tmp_path / "a.parquet", use_dictionary=False)
    assert read(tmp_path / "a.parquet") == ({"": 3000}, 300_000_000, "")
