"""The text of an HTML page, by the standard library's parser: what a reader of the page would see, paragraph by paragraph.

Where the page says what its main content is, that alone; navigation, search and footers are none of it (WAI-ARIA 1.2, landmark roles).
Cells of a row stand on a line with tabs between them, as in a browser's `innerText` (HTML Living Standard).
"""

import re
from collections.abc import Sequence
from html.parser import HTMLParser

from adam.forge.files import SkippedError
from adam.forge.templates import with_newlines

UNSEEN = frozenset(
    {"script", "style", "noscript", "template", "svg", "head", "iframe", "object", "nav", "button", "select"}
)
AROUND = frozenset({"navigation", "search", "contentinfo", "banner"})  # roles of what is on every page of a site
_BLOCKS = """p div section article main header footer aside h1 h2 h3 h4 h5 h6 ul ol dl dt dd table blockquote
figure figcaption hr form"""
BLOCKS = frozenset((*_BLOCKS.split(), "pre"))
LINES = frozenset({"br", "li", "tr"})
_VOID = "area base br col embed hr img input link meta source track wbr"
VOID = frozenset(_VOID.split())  # they have no end
CHARSET = re.compile(rb"""charset\s*=\s*["']?\s*([\w-]{1,40})""", re.IGNORECASE)
ANCHORS = frozenset({"¶", "#", "§", "🔗", "⚓", ""})  # all that is said by a link to the heading that it stands at

Attributes = Sequence[tuple[str, str | None]]


class _Element:
    """Whether the parser is inside an element, among elements of that name inside it."""

    def __init__(self) -> None:
        self._open: list[str] = []

    def __bool__(self) -> bool:
        return bool(self._open)

    def begin(self, tag: str) -> None:
        self._open.append(tag)

    def may_begin(self, tag: str) -> None:
        if tag in self._open:
            self._open.append(tag)

    def end(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def clear(self) -> None:
        self._open.clear()


class _Page(HTMLParser):
    """`landmarks`: whether roles say what is seen; else the elements' names alone."""

    def __init__(self, *, landmarks: bool) -> None:
        super().__init__(convert_charrefs=True)
        self.title = ""
        self.unseen = _Element()
        self._main = _Element()
        self._landmarks = landmarks
        self._outside: list[str] = []
        self._inside: list[str] = []  # of the main content
        self._pieces = self._outside  # where what comes next goes
        self._verbatim = 0
        self._in_title = False
        self._cells: list[int] = []  # begun in the present row of each open table
        self._items: list[int | None] = []  # of each open list that is numbered, how many; None: it has bullets
        self._begun = False  # a cell or item has begun and has no text yet: a paragraph in it begins no other line
        self._anchor = -1  # where a link within the page began, among the pieces

    def text(self) -> str:
        """Of what was read so far."""
        main = "".join(self._inside)
        return main if main.strip() else "".join(self._outside)

    def handle_starttag(self, tag: str, attrs: Attributes) -> None:
        role = dict(attrs).get("role") if attrs and self._landmarks and tag not in VOID else None
        if tag == "title":
            self._in_title = not self.title
        elif tag == "body":
            self.unseen.clear()  # a head that was never closed
        elif tag in UNSEEN or role in AROUND:
            self.unseen.begin(tag)
        elif self.unseen:
            self.unseen.may_begin(tag)
        elif (tag == "main" and self._landmarks) or role == "main":
            self._main.begin(tag)
            self._pieces = self._inside
        else:
            if self._main:
                self._main.may_begin(tag)
            self._begin(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        elif self.unseen:
            self.unseen.end(tag)
        else:
            self._end(tag)
            if self._main:
                self._main.end(tag)
                self._pieces = self._inside if self._main else self._outside

    def _begin(self, tag: str, attrs: Attributes) -> None:
        if tag == "pre":
            self._verbatim += 1
        elif tag == "a" and (dict(attrs).get("href") or "").startswith("#"):
            self._anchor = len(self._pieces)
        elif tag == "table":
            self._cells.append(0)
        elif tag in ("ul", "ol"):
            self._items.append(0 if tag == "ol" else None)
        self._break(tag)
        if tag == "li" and self._items:
            self._begin_item()
        elif tag in ("td", "th") and self._cells:
            self._begin_cell()

    def _end(self, tag: str) -> None:
        if tag == "pre":
            self._verbatim = max(0, self._verbatim - 1)
        elif tag == "a":
            self._end_anchor()
        elif tag == "table" and self._cells:
            self._cells.pop()
        elif tag in ("ul", "ol") and self._items:
            self._items.pop()
        if tag not in LINES:
            self._break(tag)

    def _break(self, tag: str) -> None:
        if tag == "tr" and self._cells:
            if self._cells[-1]:
                self._end_line()
            self._cells[-1] = 0
            self._pieces.append("\n")
        elif tag in LINES:
            self._pieces.append("\n")
        elif tag in BLOCKS and not self._begun:
            self._pieces.append("\n\n")

    def _begin_item(self) -> None:
        """The mark of a list's item, indented by the lists around it."""
        number = self._items[-1]
        if number is not None:
            self._items[-1] = number = number + 1
        self._pieces.append("  " * (len(self._items) - 1) + ("- " if number is None else f"{number}. "))
        self._begun = True

    def _begin_cell(self) -> None:
        """A tab before every cell of a row but the first."""
        if self._cells[-1]:
            self._end_line()
            self._pieces.append("\t")
        self._cells[-1] += 1
        self._begun = True

    def _end_line(self) -> None:
        """A paragraph that ended in the cell before ends no line."""
        while self._pieces and self._pieces[-1] in ("\n", "\n\n", " "):
            self._pieces.pop()

    def _end_anchor(self) -> None:
        if 0 <= self._anchor <= len(self._pieces) and "".join(self._pieces[self._anchor :]).strip() in ANCHORS:
            del self._pieces[self._anchor :]
        self._anchor = -1

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data
        elif not self.unseen and (text := data if self._verbatim else self._flowing(data)):
            self._pieces.append(text)
            self._begun = self._begun and not text.strip()

    def _flowing(self, data: str) -> str:
        """Blanks and line ends are one blank, and none where a line begins or another one is before it."""
        text, pieces = re.sub(r"\s+", " ", data), self._pieces
        return text.lstrip(" ") if not pieces or pieces[-1].endswith((" ", "\n", "\t")) else text


def text_of_html(data: bytes) -> tuple[str, str]:
    """(text, title) of a page. Raises SkippedError where its bytes are no text in the encoding that it names (else UTF-8)."""
    source = with_newlines(_decoded(data))
    page = _read(source, landmarks=True)
    if page.unseen:  # what was never closed would take the rest of the page with it
        page = _read(source, landmarks=False)
    text = re.sub(r"[ \t]+\n", "\n", page.text())
    return re.sub(r"\n{3,}", "\n\n", text).strip().encode(errors="replace").decode(), " ".join(page.title.split())


def _decoded(data: bytes) -> str:
    if b"\0" in data:
        raise SkippedError("binary")
    named = CHARSET.search(data[:4096])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        try:
            return data.decode(named.group(1).decode() if named else "utf-8")
        except (UnicodeDecodeError, LookupError):
            raise SkippedError("not_utf8") from None


def _read(source: str, *, landmarks: bool) -> _Page:
    page = _Page(landmarks=landmarks)
    try:
        page.feed(source)
        page.close()
    except (AssertionError, ValueError):  # the parser's own, of declarations that are none
        raise SkippedError("not_html") from None
    return page
