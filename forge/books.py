"""Books of Project Gutenberg: the narrative without header, licence and notes of who transcribed it.

Fifty years have given many layouts. What stands between a mark that begins a book and one that ends it is kept:

1971-2001  header, small print, `*END*THE SMALL PRINT!…*END*`, "This etext was prepared by …", the book, "End of Project Gutenberg's …"
2002-2004  header, `*** START OF THE PROJECT GUTENBERG EBOOK …`, the book, `*** END OF …`, small print (in between also without marks)
2004-2020  header, `*** START OF THIS PROJECT GUTENBERG EBOOK … ***`, "Produced by …", the book, "End of …", `*** END OF THIS …`, licence
2021-      header with credits, `*** START OF THE PROJECT GUTENBERG EBOOK … ***`, the book, `*** END OF THE …`, licence
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from adam.forge.documents import Document, document_hash
from adam.forge.notes import PARAGRAPH, without_notes

HEAD_CHARS = 20_000  # no header is longer
HEAD_GAP = 5  # paragraphs of a header without a mark that may stand between two which are surely of it
FIRST_LINES = 300  # characters of the book in which its title may stand, where a header breaks off before it
LICENCE_CHARS = 40_000  # twice as long as any
LICENCE_NEAR = (
    3_000  # characters behind an "End of Project Gutenberg's …" in which a licence follows, where it is the end
)
_BOOK = r"(?:E-?TEXT|E-?BOOK)S?\b"

# Only lines with one of these words are looked at more closely.
WORDS = re.compile(r"Gutenberg|small print|full license|updated editions", re.IGNORECASE)
# Behind these a book begins. A title may wrap, so that the closing stars are on the next line.
BEGINS = re.compile(
    rf"[ \t>]*\*+ ?START OF (?:THE|THIS) PROJECT GUTENBERG {_BOOK}(?:[^*]{{0,300}}?\*{{3}}[^\n]*|[^\n]*)"
    r"|[ \t]*\**END ?\*{0,3} ?THE SMALL PRINT[^\n]*",
    re.IGNORECASE,
)
# Before these it has ended, for certain …
ENDS = re.compile(
    rf"[ \t>]*\*+ ?END OF (?:THE|THIS) PROJECT GUTENBERG {_BOOK}|[ \t]*\*{{0,3}} ?START: FULL LICENSE"
    r"|[ \t]*THE FULL PROJECT GUTENBERG(?:-TM|™)? LICENSE|[ \t]*\**START\*{0,3} ?\**THE SMALL PRINT"
    r"|[ \t]*\**The Legal Small Print|Updated editions will replace the previous one",
    re.IGNORECASE,
)
# … or if a licence follows, or nothing. Else a volume ends here, and the next one goes on.
MAY_END = re.compile(
    r"[ \t*\[(]*(?:The )?End of (?:The |this )?Project Gutenberg(?:'s|’s|-tm|™)?\b[^\n]*(?:\n[^\n]*\S[^\n]*){0,3}",
    re.IGNORECASE,
)
VOLUME_END = re.compile(rf"^{MAY_END.pattern}$", re.IGNORECASE | re.MULTILINE)
GUTENBERG = re.compile(r"Project Gutenberg|gutenberg\.(?:org|net)", re.IGNORECASE)
# Paragraphs of a header that has no mark at its end.
HEADER = re.compile(
    r"Project Gutenberg|\be-?texts?\b|\bebooks?\b|^(?:Title|Author|Language|Release Date|Posting Date|Last Updated|Credits|Edition|"
    r"Illustrator|Translator|Editor|Character set encoding)\s*:|^\[(?:This file was|Yes, we are|Most recently updated)",
    re.IGNORECASE | re.MULTILINE,
)
FIELD = r"^{}:[ \t]*([^\n]+(?:\n[ \t]+[^\n]+)*)"
_OPENING = r"Project Gutenberg(?:(?:'s|’s)?(?: E-?text| E-?book)(?: of:?)?| release of:?|'s|’s)\s+"
FIRST_LINE = re.compile(
    _OPENING + r"(?P<title>[^\n]{1,200}?(?:\n[^\n]{1,100}?)??),?\s+by\s+(?P<author>[^\n*]+)", re.IGNORECASE
)
ONLY_TITLE = re.compile(_OPENING + r"(?P<title>[^\n]{1,200})", re.IGNORECASE)
NO_NARRATIVE = "no_narrative"


class Book(NamedTuple):
    """`narrative` without what is not the author's; `title` and `author` empty where the header does not say."""

    narrative: str
    title: str
    author: str


def open_book(document: Document) -> Iterable[Document]:
    """An opener (`forge.parts`): title and author become `meta`, the book the `group` that decides its split.

    By title and author, so that two editions of a book are on one side; a book that says neither is its own group.
    """
    book = read_book(document.text)
    said = {key: value for key, value in (("title", book.title), ("author", book.author)) if value}
    meta = {**said, **document.meta}  # columns of a record know better than a header
    name = "\n".join(" ".join(meta[key].casefold().split()) for key in ("title", "author") if meta.get(key))
    yield msgspec.structs.replace(
        document,
        text=book.narrative,
        meta=meta,
        group=name if meta.get("title") else document_hash(book.narrative).hex(),
        dropped="" if book.narrative else NO_NARRATIVE,
        example="" if book.narrative else document.text,
        long=True,
    )


def read_book(text: str) -> Book:
    """What has no header and no licence loses nothing but notes."""
    lines = _lines_with_words(text)
    if not lines:
        return Book(without_notes(text), "", "")
    books, header = _between_marks(text, lines)
    narratives = (without_notes(VOLUME_END.sub("", book)) for book in books)
    return Book("\n\n\n".join(filter(None, narratives)), *_title_and_author(header))


class _Mark(NamedTuple):
    """A line that begins a book, or ends one."""

    start: int
    end: int
    begins: bool


def _lines_with_words(text: str) -> list[int]:
    """Where the lines begin in which a mark may stand."""
    return sorted({text.rfind("\n", 0, found.start()) + 1 for found in WORDS.finditer(text)})


def _marks(text: str, lines: list[int]) -> list[_Mark]:
    """In order. An end that may be one of a volume only counts where nothing else follows."""
    marks = []
    for line in lines:
        if found := BEGINS.match(text, line):
            marks.append(_Mark(line, found.end(), True))
        elif found := ENDS.match(text, line):
            marks.append(_Mark(line, found.end(), False))
    last = max((mark.start for mark in marks if mark.begins), default=0)
    ends = [found for line in lines if (found := MAY_END.match(text, line))]
    filled = len(text.rstrip())
    marks += [_Mark(found.start(), found.end(), False) for found in ends if _is_end(text, found.end(), filled, last)]
    return sorted(marks)


def _is_end(text: str, at: int, filled: int, last_begin: int) -> bool:
    if at >= filled:
        return True
    near = GUTENBERG.search(text, at, at + LICENCE_NEAR) is not None
    return near and (len(text) - at < LICENCE_CHARS or last_begin > at)


def _between_marks(text: str, lines: list[int]) -> tuple[list[str], str]:
    """(the books, what stood before the first)."""
    marks = _marks(text, lines)
    while (
        len(marks) > 1 and marks[1].begins and marks[1].start < HEAD_CHARS and len(text) - marks[1].end > marks[0].start
    ):
        marks = marks[1:]  # small print that ends the header, or a part of it
    if not marks or not marks[0].begins:  # the header has no mark at its end
        start = _behind_header(text[: marks[0].start if marks else len(text)])
        marks = [_Mark(start, start, True), *marks]
    header, kept, start = "", [], -1
    for mark in marks:
        # A second beginning soon behind the first: what lay between was small print.
        if start >= 0 and (not mark.begins or mark.start - start > HEAD_CHARS):
            kept.append(text[start : mark.start])
        header = header if kept else text[: mark.end + FIRST_LINES]
        start = mark.end if mark.begins else -1
    if start >= 0:
        kept.append(text[start:])
    return kept, header


def _behind_header(text: str) -> int:
    """Where the paragraphs end that speak of etexts, licences and files; a few may not, such as the title."""
    end = gap = 0
    for found in PARAGRAPH.finditer(text[:HEAD_CHARS]):
        gap = 0 if HEADER.search(found[0]) else gap + 1
        if gap > HEAD_GAP:
            break
        end = end if gap else found.end()
    return end


def _title_and_author(header: str) -> tuple[str, str]:
    header = header[-HEAD_CHARS:]
    title, author = (re.search(FIELD.format(name), header, re.MULTILINE) for name in ("Title", "Author"))
    if title:
        return _plain(title[1]), _plain(author[1]) if author else ""
    if first := FIRST_LINE.search(header):
        return _plain(first["title"]), _plain(first["author"])
    only = ONLY_TITLE.search(header)
    return (_plain(only["title"]), "") if only else ("", "")


def _plain(value: str) -> str:
    """On one line, without the number of a series and without stars."""
    return re.sub(r"\s*#\d+ in our series.*|\*+", "", " ".join(value.split()), flags=re.IGNORECASE).strip(" ,")
