"""One reader for each kind of file: (text, "") of each document, or (None, reason) of a record that can't be used.

Line ends become \\n everywhere, a byte order mark is dropped. Source code is one document a file; long prose is cut into pieces,
so that one book is a corpus and not one document.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

Found = tuple[str | None, str]

# Four times a usual sample (2,048 tokens of 3 to 4 bytes): long contexts stay, and a book of 600 kB gives 19 documents to split.
PIECE_CHARS = 32_000
LONGEST_LINE = 64 * 1024 * 1024  # bytes of one line of JSON lines; memory holds one line at a time
BREAKS = ("\n\n", "\n", " ")


class SkippedError(Exception):
    """The whole file can't be used; the text is the reason, as it is counted."""


def decode(data: bytes) -> str:
    """UTF-8 with or without a mark, line ends as \\n. Raises SkippedError for binary or otherwise encoded bytes."""
    if b"\0" in data:
        raise SkippedError("binary")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SkippedError("not_utf8") from None
    return with_newlines(text)


def with_newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def pieces(text: str, size: int = PIECE_CHARS) -> Iterator[str]:
    """Cut `text` into parts of a quarter of `size` to `size` characters, behind a paragraph, else a line, else a word.

    Joined they are the text. A text of at most `size` characters is one piece.
    """
    start = 0
    while (left := len(text) - start) > size:
        # Even parts: the rest of an uneven cut could be too short to be kept.
        end = _cut(text, start, start + -(-left // -(-left // size)))
        yield text[start:end]
        start = end
    yield text[start:]


def _cut(text: str, start: int, end: int) -> int:
    """The last good place to cut in the second half of text[start:end]."""
    for mark in BREAKS:
        at = text.rfind(mark, (start + end) // 2, end)
        if at >= 0:
            return at + len(mark)
    return end


def read_code(path: Path) -> Iterator[Found]:
    """The file is the document."""
    yield decode(path.read_bytes()), ""


def read_prose(path: Path) -> Iterator[Found]:
    """The file is the document; a long one gives several."""
    for piece in pieces(decode(path.read_bytes())):
        yield piece, ""


def read_json(path: Path) -> Iterator[Found]:
    """A record, or a list of records."""
    try:
        value = msgspec.json.decode(decode(path.read_bytes()))
    except (msgspec.DecodeError, RecursionError):
        raise SkippedError("not_json") from None
    yield from map(_text_of, value if isinstance(value, list) else [value])


def read_jsonl(path: Path) -> Iterator[Found]:
    """A record a line; a bad line costs that line."""
    with path.open("rb") as file:
        while line := file.readline(LONGEST_LINE):
            if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                _skip_line(file)
                yield None, "line_too_long"
            elif line.strip():
                try:
                    yield _text_of(msgspec.json.decode(decode(line)))
                except (msgspec.DecodeError, RecursionError, SkippedError):
                    yield None, "bad_line"


def _skip_line(file: IO[bytes]) -> None:
    while (part := file.readline(LONGEST_LINE)) and not part.endswith(b"\n"):
        pass


def _text_of(record: Any) -> Found:
    """The text of a record: its field `text`; a plain string is its own text."""
    if isinstance(record, dict):
        record = record.get("text")
    if not isinstance(record, str):
        return None, "no_text"
    return with_newlines(record), ""


_PROSE = ".txt .text .md .markdown .rst .tex .org .adoc"
_CODE = (
    ".py .pyi .c .h .cc .cpp .cxx .hh .hpp .cu .cuh .rs .go .java .kt .scala .js .mjs .ts .jsx .tsx .rb .php .pl .pm .lua .r .jl"
    " .swift .m .zig .dart .sh .bash .sql .hs .ml .mli .ex .exs .erl .clj .lisp .el .vim .cs .fs .css .toml .yaml .yml .ini .cfg"
)
READERS: dict[str, Callable[[Path], Iterator[Found]]] = {
    **dict.fromkeys(_PROSE.split(), read_prose),
    **dict.fromkeys(_CODE.split(), read_code),
    ".json": read_json,
    ".jsonl": read_jsonl,
}
