"""Every kind of file: what it gives, from any record on, packed or not, broken or not."""

import importlib.util
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from adam.contract.config_forge import Forge, Source
from adam.forge import files, readers, readers_pdf, readers_records
from adam.forge.files import SkippedError
from adam.forge.readers import READERS
from adam.forge.sources import documents, open_source

pytest.importorskip("pyarrow")
from forge_files import MAKERS, PACKERS, ROWS, as_jsonl, as_parquet, as_pdf


def read(path: Path, first: int = 0, source: Source | None = None) -> list:
    origin = open_source(source or Source(path=str(path)), Forge(), path.parent)
    return list(documents(path, origin, first))


@pytest.mark.parametrize("name", MAKERS)
def test_tables_give_their_rows_from_any_row_on(tmp_path, name) -> None:
    (tmp_path / name).write_bytes(MAKERS[name](ROWS))
    for first in (0, 1, 39, 40, 41, 64, 70, 149, 150, 200):
        assert [document.text for document in read(tmp_path / name, first)] == [row["text"] for row in ROWS[first:]]


@pytest.mark.parametrize("packed", PACKERS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt", "a.json"])
def test_packed_files_are_as_the_plain_ones(tmp_path, name, packed) -> None:
    data = MAKERS[name](ROWS) if name in MAKERS else b"a line of text\n" * 100
    (tmp_path / name).write_bytes(data)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / (name + packed)).write_bytes(PACKERS[packed](data))
    origin = open_source(Source(path=str(tmp_path / "in")), Forge(), tmp_path)
    (file,) = origin.files
    assert [d.text for d in documents(file, origin)] == [d.text for d in read(tmp_path / name)]


@pytest.mark.parametrize("packed", PACKERS)
def test_a_packed_file_that_was_cut_gives_what_there_is_and_is_counted(tmp_path, packed) -> None:
    path = tmp_path / f"a.jsonl{packed}"
    rng = random.Random(1)
    rows = [{"text": "".join(rng.choices("abcdefghij ", k=400))} for _ in range(3000)]
    data = PACKERS[packed](as_jsonl(rows))
    path.write_bytes(data[: len(data) * 2 // 3])
    found, origin = [], open_source(Source(path=str(path)), Forge(), tmp_path)
    with pytest.raises(SkippedError, match="damaged"):
        for document in documents(path, origin):
            found.append(document)
    assert [document.text for document in found if not document.dropped] == [row["text"] for row in rows[: len(found)]]
    assert len(found) > (1000 if packed != ".bz2" else -1)  # bz2's blocks are nearly as large as the file


@pytest.mark.parametrize("packed", PACKERS)
def test_a_packed_file_with_a_damaged_member_is_no_whole_one(tmp_path, packed) -> None:
    """The standard library's files take a second member that is none for the end, and say nothing."""
    path = tmp_path / f"a.jsonl{packed}"
    first, second = (PACKERS[packed](as_jsonl(ROWS[part]) + b"\n") for part in (slice(3), slice(3, 7)))
    path.write_bytes(first + second)
    origin = open_source(Source(path=str(path)), Forge(), tmp_path)
    assert [document.text for document in documents(path, origin)] == [row["text"] for row in ROWS[:7]]
    for damaged in (first + b"\x01" + second[1:], first + second[:-3], first + b"not packed", b""):
        path.write_bytes(damaged)
        if damaged or packed in (".bz2", ".xz"):  # gzip's and zstd's empty file is one without members
            with pytest.raises(SkippedError, match="damaged"):
                list(documents(path, origin))
    path.write_bytes(PACKERS[".xz"](as_jsonl(ROWS[:3])) + bytes(8))  # padding, as the format has it
    if packed == ".xz":
        assert len(list(documents(path, origin))) == 3


def test_columns_that_are_not_named_are_not_read(tmp_path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(as_parquet([{"q": f"q{n}", "a": f"a{n}", "big": "x"} for n in range(5)]))
    source = Source(path=str(path), template="{q}? {a}", answers=("a",))
    assert [document.text for document in read(path, 0, source)] == [f"q{n}? a{n}" for n in range(5)]
    with pytest.raises(SkippedError, match="no_such_column"):
        read(path, 0, Source(path=str(path), template="{nothing}"))


def test_a_bad_row_of_csv_costs_that_row(tmp_path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,text\n1,one\n2\n3,"three,\nwith a line"\n4,four,more\n\n5,\xff\xff\n6,a\0b\n7,seven\n')
    found = [(document.text, document.dropped) for document in read(path)]
    assert [text for text, dropped in found if not dropped] == ["one", "three,\nwith a line", "seven"]
    assert [dropped for _, dropped in found if dropped] == ["bad_line"] * 4


@pytest.mark.parametrize("limit", [4_000_000, 1000])
def test_a_quote_that_is_never_closed_costs_its_line(tmp_path, monkeypatch, limit) -> None:
    """Whether the file ends before it would be, or what memory holds; what is behind it are rows."""
    monkeypatch.setattr(readers_records, "LONGEST_CELL", limit)
    monkeypatch.setattr(readers_records, "LONGEST_ROW", 2 * limit)
    (tmp_path / "a.csv").write_text(
        'id,text\n0,"two\nlines"\n1,"open\n' + "".join(f"{n},text {n}\n" for n in range(2, 300))
    )
    found = read(tmp_path / "a.csv")
    assert [document.text for document in found] == ["two\nlines", "", *(f"text {n}" for n in range(2, 300))]
    assert [(document.dropped, document.example) for document in found if document.dropped] == [
        ("bad_line", '1,"open\n')
    ]
    for first in (1, 2, 150):
        assert [document.text for document in read(tmp_path / "a.csv", first)] == [
            document.text for document in found[first:]
        ]


def test_a_row_of_small_cells_that_never_ends_is_not_held(tmp_path, monkeypatch) -> None:
    """Each line closes a quote and opens another: all of the file would be one row."""
    monkeypatch.setattr(readers_records, "LONGEST_ROW", 1000)
    lines = 'id,text\n1,"a' + '\nx","y' * 20_000 + "\n"
    (tmp_path / "a.csv").write_text(lines)
    held = []
    real = readers_records._Lines.taken
    monkeypatch.setattr(
        readers_records._Lines, "taken", lambda self: (held.append(sum(map(len, self.row))), real(self))[1]
    )
    assert len(read(tmp_path / "a.csv")) == 20_001
    assert max(held) < 1100


@pytest.mark.parametrize("head", [b"id,te\xffxt\n", b"i\0d,text\n", b'id,"text\n', b"\n"])
def test_a_csv_file_without_a_header_is_not_read_by_its_first_row(tmp_path, head) -> None:
    (tmp_path / "a.csv").write_bytes(head + b"1,one\n2,two\n")
    with pytest.raises(SkippedError, match="bad_header"):
        read(tmp_path / "a.csv")


def test_a_value_of_millions_of_small_ones_is_not_held(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(readers_records, "MOST_VALUES", 1000)
    good = '{"text": "' + 'one, two, [three], \\" {' * 400 + '"}'
    (tmp_path / "a.jsonl").write_text(f"{good}\n[{'{},' * 1001}1]\n{good}")
    assert [document.dropped for document in read(tmp_path / "a.jsonl")] == ["", "too_many_values", ""]
    (tmp_path / "a.json").write_text(f"[{good}, {good}]")
    assert len(read(tmp_path / "a.json")) == 2
    (tmp_path / "a.json").write_text("[" + '"ab",' * 1001 + "1]")
    with pytest.raises(SkippedError, match="too_many_values"):
        read(tmp_path / "a.json")


def test_what_is_bad_is_always_shown(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(readers_records, "LONGEST_LINE", 50)
    (tmp_path / "a.jsonl").write_text('""\n{"text": "' + "long " * 20 + '"}\n{"text": 1}\n')
    assert [(document.dropped, document.example) for document in read(tmp_path / "a.jsonl")] == [
        ("", ""), ("line_too_long", ('{"text": "' + "long " * 20)[:50]), ("no_text", "{'text': 1}")
    ]  # fmt: skip
    source = Source(path=str(tmp_path / "a.jsonl"), messages="messages")
    assert read(tmp_path / "a.jsonl", 0, source)[0].example == "''"


def test_prose_larger_than_memory_allows_comes_in_parts(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(readers, "LARGEST_FILE", 4000)
    text = "".join(f"line {n} of a large book, été →\r\n" for n in range(1000))
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    found = [document.text for document in read(tmp_path / "a.txt")]
    assert "".join(found) == text.replace("\r\n", "\n")
    assert len(found) > 30
    assert max(map(len, found)) <= 1001
    assert all(part.endswith("\n") for part in found)
    assert [document.text for document in read(tmp_path / "a.txt", 7)] == found[7:]
    (tmp_path / "b.txt").write_bytes(b"x" * 50_000)  # one line, no place to cut
    assert "".join(document.text for document in read(tmp_path / "b.txt")) == "x" * 50_000


def test_a_page_of_html_is_what_a_reader_sees(tmp_path) -> None:
    page = """<!DOCTYPE html><html><head><title>A  page</title><style>p { }</style></head><body><nav>menu</nav>
    <h1>Head</h1><p>One &amp; two<br>three &eacute;</p><script>if (a < b) { x() }</script><pre>  kept
      as it is</pre><ul><li>first<li>second</ul><table><tr><td>a</td><td>b</td></tr></table></body></html>"""
    (tmp_path / "a.html").write_text(page)
    (document,) = read(tmp_path / "a.html")
    assert document.meta == {"title": "A page"}
    assert document.text == "Head\n\nOne & two\nthree é\n\n  kept\n      as it is\n\n- first\n- second\n\na\tb"
    (tmp_path / "b.html").write_bytes('<meta charset="latin-1"><p>été</p>'.encode("latin-1"))
    assert read(tmp_path / "b.html")[0].text == "été"


def test_a_tag_of_megabytes_takes_no_memory(tmp_path) -> None:
    """A picture in a page stays a tag of it; a million attributes would be hundreds of megabytes."""
    picture = "data:image/png;base64," + "QUJD" * 100_000
    (tmp_path / "a.html").write_text(f'<p>one<img src="{picture}"> two<p{" a b" * 1_000_000}>three')
    tracemalloc.start()
    (document,) = read(tmp_path / "a.html")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert document.text == "one two\n\nthree"
    assert most < 100_000_000


def test_a_pdf_is_its_text_and_a_broken_one_costs_itself(tmp_path) -> None:
    pytest.importorskip("pypdf")
    (tmp_path / "a.pdf").write_bytes(as_pdf(["Hello there,", "this is a page."]))
    (document,) = read(tmp_path / "a.pdf")
    assert document.text == "Hello there,\nthis is a page."
    assert document.long
    for name, data, reason in (("b", b"%PDF-1.4 nothing", "damaged"), ("c", as_pdf([]), "no_text")):
        (tmp_path / f"{name}.pdf").write_bytes(data)
        with pytest.raises(SkippedError, match=reason):
            read(tmp_path / f"{name}.pdf")
    assert read(tmp_path / "a.pdf")[0].text == document.text


def test_a_pdf_that_never_ends_or_kills_its_reader_is_given_up(tmp_path, monkeypatch) -> None:
    (tmp_path / "a.pdf").write_bytes(as_pdf(["x"]))
    real = subprocess.Popen
    sleeping, dying = "import time; time.sleep(1000)", "import os; os.abort()"
    for program, reason, seconds in ((sleeping, "pdf_timeout", 0.5), (dying, "pdf_crashed", 600.0)):
        readers_pdf.WORKER.end()
        with monkeypatch.context() as context:
            context.setattr(readers_pdf, "SECONDS", seconds)
            context.setattr(
                readers_pdf.subprocess,
                "Popen",
                lambda _, program=program, **k: real([sys.executable, "-c", program], **k),
            )
            with pytest.raises(SkippedError, match=reason):
                read(tmp_path / "a.pdf")
    assert read(tmp_path / "a.pdf")[0].text == "x"
    readers_pdf.WORKER.end()


def test_twenty_languages_and_more_are_code() -> None:
    code = [name for name, reader in READERS.items() if reader is readers.read_code]
    assert len(code) > 50
    named = (
        """.py .rs .cpp .js .go .java .c .rb .php .swift .kt .scala .sh .sql .hs .lua .r .jl .ts .cs .xml .yaml .toml"""
    )
    for name in named.split():
        assert name in code


def test_a_missing_package_is_said_with_what_installs_it(monkeypatch, tmp_path) -> None:
    """A folder with some files that need it loses those, and they are counted; one with nothing else is refused."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setitem(sys.modules, "pypdf", None)
    (tmp_path / "a.pdf").write_bytes(as_pdf(["x"]))
    with pytest.raises(files.ConfigError, match=r"\.pdf files need the package pypdf, .*pip install"):
        open_source(Source(path=str(tmp_path)), Forge(), tmp_path)
    (tmp_path / "b.txt").write_text("text")
    origin = open_source(Source(path=str(tmp_path)), Forge(), tmp_path)
    with pytest.raises(SkippedError, match="needs_pypdf"):
        list(documents(tmp_path / "a.pdf", origin))
    assert [document.text for document in documents(tmp_path / "b.txt", origin)] == ["text"]
