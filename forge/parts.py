"""One document of a file becomes many: a book is cut into pieces, so that it is a corpus and not one document."""

from collections.abc import Callable, Iterable, Iterator

import msgspec

from adam.contract.config_forge import Source
from adam.forge.books import open_book
from adam.forge.documents import Document

# Four times a usual sample (2,048 tokens of 3 to 4 bytes): long contexts stay, and a book of 600 kB gives 19 documents to split.
PIECE_CHARS = 32_000
BREAKS = ("\n\n", "\n", " ")

# Opens prose: a book without its licence, with title and author in `meta`, `group` set, `long` where it is to be cut. None: as it is.
Opener = Callable[[Document], Iterable[Document]] | None


def opener_of(source: Source) -> Opener:
    """How the prose of a source is opened. It is called for each document that is no code and has a text."""
    return open_book if source.text == "books" else None


def is_whole(document: Document, opener: Opener) -> bool:
    """Whether a read document is its only part: most are, and need no generator of parts."""
    closed = opener is None or bool(document.dropped) or document.kind == "code"
    return closed and not _is_cut(document)


def _is_cut(document: Document) -> bool:
    return document.long and not document.dropped and len(document.text) > PIECE_CHARS


def parts(document: Document, opener: Opener) -> Iterator[Document]:
    """The documents that a read one gives: what the opener makes of it, the long ones in pieces."""
    opened = (document,) if opener is None or document.dropped or document.kind == "code" else opener(document)
    for whole in opened:
        if _is_cut(whole):
            yield from (msgspec.structs.replace(whole, text=piece) for piece in pieces(whole.text))
        else:
            yield whole


def pieces(text: str, size: int = PIECE_CHARS) -> Iterator[str]:
    """Cut `text` into parts of a quarter of `size` to `size` characters, behind a paragraph, else a line, else a word.

    Joined they are the text. A text of at most `size` characters is one piece.
    """
    start = 0
    while (left := len(text) - start) > size:
        # Even parts: the rest of an uneven cut could be too short to be kept.
        end = cut_at(text, start, start + -(-left // -(-left // size)))
        yield text[start:end]
        start = end
    yield text[start:]


def cut_at(text: str, start: int, end: int) -> int:
    """The last good place to cut in the second half of text[start:end]."""
    for mark in BREAKS:
        at = text.rfind(mark, (start + end) // 2, end)
        if at >= 0:
            return at + len(mark)
    return end
