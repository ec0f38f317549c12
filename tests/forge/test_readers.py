"""What becomes of a file's bytes: pieces of prose, whole code, records, and what can't be used."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam.forge import readers, readers_records
from adam.forge.documents import Document
from adam.forge.files import SkippedError
from adam.forge.parts import parts, pieces
from adam.forge.readers import TEXT, decode, read_code, read_json, read_jsonl, read_prose


def texts_of(documents) -> list[tuple[str, str]]:
    return [(document.text, document.dropped) for document in documents]


@given(st.text(alphabet="ab \n→", max_size=400), st.integers(8, 50))
def test_pieces_are_the_text_and_neither_long_nor_tiny(text: str, size: int) -> None:
    found = list(pieces(text, size))
    assert "".join(found) == text
    assert max(map(len, found)) <= size
    if len(found) > 1:
        assert min(map(len, found)) >= size // 4


def test_pieces_end_where_a_paragraph_does() -> None:
    text = "\n\n".join(f"paragraph {number} has words\nand lines" for number in range(100))
    found = list(pieces(text, 400))
    assert len(found) > 5
    assert all(piece.endswith("\n\n") for piece in found[:-1])


def test_a_book_is_cut_and_a_program_is_not(tmp_path) -> None:
    path = tmp_path / "any"
    path.write_text("a line of forty characters, more or less\n" * 5000)
    (prose,), (code,) = read_prose(path, TEXT, 0), read_code(path, TEXT, 0)
    cut = list(parts(prose, lambda document: (document,)))
    assert len(cut) > 5
    assert "".join(piece.text for piece in cut) == path.read_text()
    assert [len(piece.text) for piece in parts(code, lambda document: (document,))] == [path.stat().st_size]


def test_an_opener_sees_whole_prose_and_no_code() -> None:
    """A book may lose its first page, be given a title, or come to nothing, before it is cut."""

    def opener(document):
        if "nothing" in document.text:
            return
        document.text, document.meta, document.group = document.text[10:], {"title": "T"}, "book"
        yield document

    book = "0123456789" + "a line of prose\n" * 5000
    cut = list(parts(Document(book, long=True), opener))
    assert "".join(piece.text for piece in cut) == book[10:]
    assert {(piece.group, piece.meta["title"]) for piece in cut} == {("book", "T")}
    assert list(parts(Document("nothing"), opener)) == []
    assert [found.text for found in parts(Document("0123456789 code", kind="code"), opener)] == ["0123456789 code"]
    assert [found.dropped for found in parts(Document("", dropped="bad_line"), opener)] == ["bad_line"]


def test_code_is_kept_as_it_is(tmp_path) -> None:
    """Its forerunner's filter threw away whatever had `#include` in it, and cut everything at 4,096 characters."""
    text = "#include <stdio.h>\n" + "int main(void) { return 0; }\n" * 1000
    (tmp_path / "a.c").write_text(text)
    assert texts_of(readers.READERS[".c"](tmp_path / "a.c", TEXT, 0)) == [(text, "")]


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"\xef\xbb\xbfa\r\nb\rc\n", "a\nb\nc\n"), (b"plain", "plain"), ("é→".encode(), "é→"), (b"", "")],
)
def test_marks_go_and_line_ends_are_one_kind(data: bytes, text: str) -> None:
    assert decode(data) == text


@pytest.mark.parametrize(
    ("data", "reason"), [(b"a\0b", "binary"), (b"\xe9t\xe9", "not_utf8"), (b"\xff\xfea\0", "binary")]
)
def test_other_bytes_are_no_text(data: bytes, reason: str) -> None:
    with pytest.raises(SkippedError, match=reason):
        decode(data)


def test_a_bad_line_costs_that_line(tmp_path) -> None:
    lines = [
        b'\xef\xbb\xbf{"text": "first\\r\\nsecond"}\r',
        b"{not json",
        b'"a plain string"',
        b'{"title": "no text"}',
        b"",
        b'{"text": 7}',
        b"\xff\xff",
        b"[" * 100_000,
        b'{"text": "last"}',
    ]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join(lines))
    bad, none = ("", "bad_line"), ("", "no_text")
    assert texts_of(read_jsonl(path, TEXT, 0)) == [
        ("first\nsecond", ""), bad, ("a plain string", ""), none, none, bad, bad, ("last", ""),
    ]  # fmt: skip


def test_a_line_without_end_is_not_held_in_memory(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(readers_records, "LONGEST_LINE", 100)
    exact = json.dumps({"text": "x" * (99 - len('{"text": ""}'))})
    lines = [json.dumps({"text": "y" * 1000}), exact, json.dumps({"text": "z" * 189}), '{"text": "end"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = texts_of(read_jsonl(tmp_path / "a.jsonl", TEXT, 0))
    assert [reason for _, reason in found] == ["line_too_long", "", "line_too_long", ""]
    assert found[-1] == ("end", "")


@pytest.mark.parametrize(
    ("value", "texts"),
    [({"text": "one"}, ["one"]), ([{"text": "one"}, "two", {}], ["one", "two", ""]), ([], []), (3, [""])],
)
def test_json_is_a_record_or_a_list_of_them(tmp_path, value, texts) -> None:
    (tmp_path / "a.json").write_text(json.dumps(value))
    assert [document.text for document in read_json(tmp_path / "a.json", TEXT, 0)] == texts


@pytest.mark.parametrize("data", [b"{", b"[" * 100_000, b'{"text": "\\ud800"}'])
def test_json_that_is_none_is_skipped(tmp_path, data) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(SkippedError, match="not_json"):
        list(read_json(tmp_path / "a.json", TEXT, 0))
