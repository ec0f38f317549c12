"""The text of an HTML page, by the standard library's parser: what a reader of the page would see, paragraph by paragraph."""

import re
from html.parser import HTMLParser

from adam.forge.files import SkippedError
from adam.forge.templates import with_newlines

UNSEEN = frozenset({"script", "style", "noscript", "template", "svg", "head", "iframe", "object", "nav"})
_BLOCKS = """p div section article main header footer aside h1 h2 h3 h4 h5 h6 ul ol dl dt dd table blockquote
figure figcaption hr form"""
BLOCKS = frozenset(_BLOCKS.split())
LINES = frozenset({"br", "li", "tr"})
CHARSET = re.compile(rb"""charset\s*=\s*["']?\s*([\w-]{1,40})""", re.IGNORECASE)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self.title = ""
        self._unseen: list[str] = []
        self._verbatim = 0
        self._in_title = False

    def handle_starttag(self, tag: str, _attrs: object) -> None:
        if tag == "title":
            self._in_title = not self.title
        elif tag == "body":
            self._unseen.clear()  # a head that was never closed
        elif tag in UNSEEN:
            self._unseen.append(tag)
        elif tag == "pre":
            self._verbatim += 1
            self.pieces.append("\n\n")
        else:
            self._break(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        elif tag in self._unseen:
            while self._unseen.pop() != tag:
                pass
        elif tag == "pre":
            self._verbatim = max(0, self._verbatim - 1)
            self.pieces.append("\n\n")
        else:
            self._break(tag)

    def _break(self, tag: str) -> None:
        if tag in BLOCKS:
            self.pieces.append("\n\n")
        elif tag in LINES:
            self.pieces.append("\n")
        elif tag in ("td", "th"):
            self.pieces.append(" ")

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data
        elif not self._unseen:
            self.pieces.append(data if self._verbatim else self._flowing(data))

    def _flowing(self, data: str) -> str:
        """Blanks and line ends are one blank, and none where a line begins or another one is before it."""
        text = re.sub(r"\s+", " ", data)
        return text.lstrip(" ") if not self.pieces or self.pieces[-1].endswith((" ", "\n")) else text


def text_of_html(data: bytes) -> tuple[str, str]:
    """(text, title) of a page. Raises SkippedError where its bytes are no text in the encoding that it names (else UTF-8)."""
    if b"\0" in data:
        raise SkippedError("binary")
    named = CHARSET.search(data[:4096])
    try:
        source = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        try:
            source = data.decode(named.group(1).decode() if named else "utf-8")
        except (UnicodeDecodeError, LookupError):
            raise SkippedError("not_utf8") from None
    page = _Page()
    try:
        page.feed(with_newlines(source))
        page.close()
    except (AssertionError, ValueError):  # the parser's own, of declarations that are none
        raise SkippedError("not_html") from None
    text = re.sub(r"[ \t]+\n", "\n", "".join(page.pieces))
    return re.sub(r"\n{3,}", "\n\n", text).strip().encode(errors="replace").decode(), " ".join(page.title.split())
