"""One reader for each kind of file: (text, "") of each document, or (None, reason) of a record that can't be used."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

Found = tuple[str | None, str]


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
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_text(path: Path) -> Iterator[Found]:
    """The file is the document."""
    text = decode(path.read_bytes())
    yield text, ""


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
        for line in file:
            if not line.strip():
                continue
            try:
                yield _text_of(msgspec.json.decode(decode(line)))
            except (msgspec.DecodeError, RecursionError, SkippedError):
                yield None, "bad_line"


def _text_of(record: Any) -> Found:
    """The text of a record: its field `text`; a plain string is its own text."""
    if isinstance(record, dict):
        record = record.get("text")
    if not isinstance(record, str):
        return None, "no_text"
    return record, ""


_TEXT = (
    ".txt .md .markdown .rst .tex .org .py .pyi .c .h .cc .cpp .hpp .cu .rs .go .java .kt .scala .js .mjs .ts .jsx .tsx .rb .php"
    " .pl .lua .r .jl .swift .sh .bash .sql .hs .ml .ex .exs .erl .clj .lisp .el .vim .cs .css .toml .yaml .yml .ini .cfg"
)
READERS: dict[str, Callable[[Path], Iterator[Found]]] = {
    **dict.fromkeys(_TEXT.split(), read_text),
    ".json": read_json,
    ".jsonl": read_jsonl,
}
