"""One reader for each kind of file: its documents, among them ones that can't be used, with the reason in `dropped`.

A reader is told at which of its records to begin, so that a killed forge goes on without doing all of a file again.
Line ends become \\n everywhere, a byte order mark is dropped. A file of code or of prose is one document; `parts` cuts the latter.
"""

import codecs
import re
from collections.abc import Callable, Iterator
from typing import IO

from adam.contract.config_forge import Source
from adam.forge.documents import Document
from adam.forge.files import COMPRESSED, File, SkippedError, open_file
from adam.forge.parts import cut_at
from adam.forge.readers_html import text_of_html
from adam.forge.readers_pdf import read_pdf
from adam.forge.readers_records import read_csv, read_json, read_jsonl
from adam.forge.readers_tables import read_arrow, read_parquet
from adam.forge.templates import Template, with_newlines

LARGEST_FILE = 256 * 1024 * 1024  # bytes that are held at once; prose that is larger comes in parts of a quarter of it
LARGEST_PAGE = 32 * 1024 * 1024  # bytes of HTML: its parser takes ten times that
# What a tag of that length has are attributes, or it was never closed: the parser takes two hundred times its size for them.
LONG_TAG = re.compile(rb"<([a-zA-Z][\w-]{0,40})[^>]{100000,}")
TEXT = Template(Source())


def decode(data: bytes) -> str:
    """UTF-8 with or without a mark, line ends as \\n. Raises SkippedError for binary or otherwise encoded bytes."""
    if b"\0" in data:
        raise SkippedError("binary")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SkippedError("not_utf8") from None
    return with_newlines(text)


def _whole(file: IO[bytes], largest: int) -> bytes:
    """All bytes. Raises SkippedError where they are more than can be held."""
    data = file.read(largest + 1)
    if len(data) > largest:
        raise SkippedError("too_large")
    return data


def read_code(file: File, _template: Template, first: int) -> Iterator[Document]:
    """The file is the document."""
    if first:
        return
    with open_file(file) as opened:
        yield Document(decode(_whole(opened, LARGEST_FILE)), kind="code")


def read_prose(file: File, _template: Template, first: int) -> Iterator[Document]:
    """The file is the document; one that is too large to be held is several, cut where `parts` would."""
    with open_file(file) as opened:
        blocks, size = [], 0
        while size <= LARGEST_FILE and (block := opened.read(LARGEST_FILE // 4)):
            blocks.append(block)
            size += len(block)
        if size <= LARGEST_FILE:
            if not first:
                yield Document(decode(b"".join(blocks)), long=True)
            return
        for number, text in enumerate(_windows(blocks, opened)):
            if number >= first:
                yield Document(text, long=True)


def _windows(blocks: list[bytes], file: IO[bytes]) -> Iterator[str]:
    """The text of `blocks`, which are let go one by one, and of the rest of `file`, a quarter of LARGEST_FILE at a time."""
    decoder, text = codecs.getincrementaldecoder("utf-8-sig")(), ""
    size = LARGEST_FILE // 4
    while block := blocks.pop(0) if blocks else file.read(size):
        if b"\0" in block:
            raise SkippedError("binary")
        try:
            text += decoder.decode(block)
        except UnicodeDecodeError:
            raise SkippedError("not_utf8") from None
        while len(text) > size:
            # Not between \r and \n, which are one line end.
            end = cut_at(text, 0, size)
            end += text[end - 1 : end + 1] == "\r\n"
            yield with_newlines(text[:end])
            text = text[end:]
    try:
        text += decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise SkippedError("not_utf8") from None
    if text:
        yield with_newlines(text)


def read_html(file: File, _template: Template, first: int) -> Iterator[Document]:
    """The text of a page, as prose."""
    if first:
        return
    with open_file(file) as opened:
        data = LONG_TAG.sub(rb"<\1", _whole(opened, LARGEST_PAGE))
    text, title = text_of_html(data)
    yield Document(text, meta={"title": title} if title else {}, long=True)


Reader = Callable[[File, Template, int], Iterator[Document]]
_PROSE = ".txt .text .md .markdown .rst .tex .org .adoc"
_CODE = (
    ".py .pyi .c .h .cc .cpp .cxx .hh .hpp .cu .cuh .rs .go .java .kt .scala .js .mjs .ts .jsx .tsx .rb .php .pl .pm .lua .r .jl"
    " .swift .m .zig .dart .sh .bash .sql .hs .ml .mli .ex .exs .erl .clj .lisp .el .vim .cs .fs .css .toml .yaml .yml .ini .cfg"
    " .xml .nim .v .vhdl .f90 .pas .groovy .tcl .ps1 .proto .cmake"
)
READERS: dict[str, Reader] = {
    **dict.fromkeys(_PROSE.split(), read_prose),
    **dict.fromkeys(_CODE.split(), read_code),
    **dict.fromkeys([".html", ".htm", ".xhtml"], read_html),
    **dict.fromkeys([".jsonl", ".ndjson"], read_jsonl),
    **dict.fromkeys([".csv", ".tsv"], read_csv),
    ".json": read_json,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".pdf": read_pdf,
}
# Tables are packed inside, and read from their end: a packed one is none that a reader could open.
PACKED = tuple(f"{name}{packed}" for name in READERS if name not in (".parquet", ".arrow") for packed in COMPRESSED)
