"""One reader for each kind of file: its documents, among them ones that can't be used, with the reason in `dropped`.

Line ends become \\n everywhere, a byte order mark is dropped. A file of code or of prose is one document; `parts` cuts the latter.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from adam.forge.documents import EXAMPLE_CHARS, Document

LONGEST_LINE = 64 * 1024 * 1024  # bytes of one line of JSON lines; memory holds one line at a time


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


def read_code(path: Path) -> Iterator[Document]:
    """The file is the document."""
    yield Document(decode(path.read_bytes()), kind="code")


def read_prose(path: Path) -> Iterator[Document]:
    """The file is the document."""
    yield Document(decode(path.read_bytes()), long=True)


def read_json(path: Path) -> Iterator[Document]:
    """A record, or a list of records."""
    try:
        value = msgspec.json.decode(decode(path.read_bytes()))
    except (msgspec.DecodeError, RecursionError):
        raise SkippedError("not_json") from None
    yield from map(_text_of, value if isinstance(value, list) else [value])


def read_jsonl(path: Path) -> Iterator[Document]:
    """A record a line; a bad line costs that line."""
    with path.open("rb") as file:
        while line := file.readline(LONGEST_LINE):
            if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                _skip_line(file)
                yield Document("", dropped="line_too_long")
            elif line.strip():
                try:
                    yield _text_of(msgspec.json.decode(decode(line)))
                except (msgspec.DecodeError, RecursionError, SkippedError):
                    yield Document("", dropped="bad_line", example=line[:EXAMPLE_CHARS].decode(errors="replace"))


def _skip_line(file: IO[bytes]) -> None:
    while (part := file.readline(LONGEST_LINE)) and not part.endswith(b"\n"):
        pass


def _text_of(record: Any) -> Document:
    """The text of a record: its field `text`; a plain string is its own text."""
    text = record.get("text") if isinstance(record, dict) else record
    if not isinstance(text, str):
        return Document("", dropped="no_text", example=repr(record)[:EXAMPLE_CHARS])
    return Document(with_newlines(text))


_PROSE = ".txt .text .md .markdown .rst .tex .org .adoc"
_CODE = (
    ".py .pyi .c .h .cc .cpp .cxx .hh .hpp .cu .cuh .rs .go .java .kt .scala .js .mjs .ts .jsx .tsx .rb .php .pl .pm .lua .r .jl"
    " .swift .m .zig .dart .sh .bash .sql .hs .ml .mli .ex .exs .erl .clj .lisp .el .vim .cs .fs .css .toml .yaml .yml .ini .cfg"
)
READERS: dict[str, Callable[[Path], Iterator[Document]]] = {
    **dict.fromkeys(_PROSE.split(), read_prose),
    **dict.fromkeys(_CODE.split(), read_code),
    ".json": read_json,
    ".jsonl": read_jsonl,
}
