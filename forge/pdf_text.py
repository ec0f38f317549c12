"""The pages of a PDF file as one text: without what stands on every page, with words and sentences put together again. Pure.

pages ──> running heads ──> joined ──> hyphens, dot leaders
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

NEAR = 6  # pages before and behind one that are compared with it
NUMBERED = 2  # of these have the line with their own page number in its place …
ALIKE = 4  # … or have it letter for letter: left and right pages may differ, and a chapter's head ends with it
DEEPEST = 3  # lines of a head or foot
DIGITS = 5  # of a page's number
LEADERS = re.compile(r"[ \t]*(?:\.[ \t]?){4,}(?=[ \t]*[ivxlcIVXLC\d]+[-\d]*[ \t]*$)", re.MULTILINE)
HYPHEN = re.compile(r"(-{0,2}[^\W\d_]+(?:-[^\W\d_]+)*)[-\u00ad\u2010]\n[ \t]*([^\W\d_]+)(\S*)[ \t]*\n?")
SOFT_HYPHEN = "\u00ad"
# Latin ligatures are letters that were drawn together (Unicode, Alphabetic Presentation Forms).
LIGATURES = {0xFB00: "ff", 0xFB01: "fi", 0xFB02: "fl", 0xFB03: "ffi", 0xFB04: "ffl", 0xFB05: "st", 0xFB06: "st"}
# TeX's older fonts have accents as letters of their own, before the letter that they belong to. Not ` and ^, which code has.
ACCENTS = {
    "´": "\u0301", "¨": "\u0308", "˝": "\u030b", "ˆ": "\u0302", "˜": "\u0303", "ˇ": "\u030c", "˘": "\u0306", "˚": "\u030a", "¯": "\u0304",
}  # fmt: skip
ACCENTED = re.compile(f"([{''.join(ACCENTS)}])(?!s\\b)([^\\W\\d_])")


def text_of_pages(pages: Sequence[str]) -> str:
    """One text; each page's lines end with \\n. What is left out: running heads and feet, page numbers, leaders, hyphens at line ends."""
    lines = [_trimmed(ACCENTED.sub(_composed, page.translate(LIGATURES)).split("\n")) for page in pages]
    bodies = ["\n".join(_trimmed(page)) for page in without_heads(lines)]
    if not any(bodies):  # lines that are numbered like pages are all there is: slides, a form, a list
        bodies = ["\n".join(page) for page in lines]
    return LEADERS.sub("\t", _without_hyphens(_joined([body for body in bodies if body])))


def _trimmed(lines: Sequence[str]) -> list[str]:
    """Without blank lines at both ends, and blanks at the ends of lines."""
    found = [line.rstrip() for line in lines]
    while found and not found[-1]:
        found.pop()
    first = next((number for number, line in enumerate(found) if line), 0)
    return found[first:]


def _composed(match: re.Match[str]) -> str:
    """The letter with its accent where there is one; else as they stood."""
    letter = {"ı": "i", "ȷ": "j"}.get(match[2], match[2])
    found = unicodedata.normalize("NFC", letter + ACCENTS[match[1]])
    return found if len(found) == 1 else match[0]


def without_heads(pages: Sequence[list[str]]) -> list[list[str]]:
    """The pages' lines without the heads and feet that pages near them have as well."""
    distance = _page_numbers(pages)
    for _ in range(DEEPEST):
        top = _heads([page[0] if page else "" for page in pages], distance)
        pages = [_trimmed(page[1:]) if head else page for page, head in zip(pages, top, strict=True)]
        foot = _heads([page[-1] if page else "" for page in pages], distance)
        pages = [_trimmed(page[:-1]) if head else page for page, head in zip(pages, foot, strict=True)]
    return list(pages)


def _page_numbers(pages: Sequence[list[str]]) -> int | None:
    """How far the numbers that begin or end the pages' first or last lines are from the pages' own; None: most have none."""
    found: Counter[int] = Counter()
    for number, page in enumerate(pages):
        found.update({value - number for line in page[:1] + page[-1:] for value in _numbers_at_ends(line)})
    distance, times = found.most_common(1)[0] if found else (0, 0)
    return distance if times > max(NUMBERED, len(pages) // 2) else None


def _numbers_at_ends(line: str) -> set[int]:
    words = line.split()
    return {int(word) for word in words[:1] + words[-1:] if word.isdecimal() and len(word) <= DIGITS}


def _heads(lines: Sequence[str], distance: int | None) -> list[bool]:
    """Which of the first (or last) lines of consecutive pages are running heads. `distance`: see `_page_numbers`."""
    keys = [list(_keys(line, number)) for number, line in enumerate(lines)]
    found = []
    for number, own in enumerate(keys):
        around = keys[max(0, number - NEAR) : number] + keys[number + 1 : number + 1 + NEAR]
        count = Counter(key for other in around for key in other)
        found.append(
            (distance is not None and number + distance in _numbers_at_ends(lines[number]))
            or any(count[key] >= NUMBERED for key in own[1:])
            or any(count[key] >= ALIKE for key in own[:1] if key)
        )
    return found


def _keys(line: str, page: int) -> Iterator[str]:
    """The line itself (empty: too little to be a head by itself), and with each of its numbers as its distance to the page's."""
    words = " ".join(line.split())
    if not words:
        return
    yield words if sum(map(str.isalpha, words)) >= 4 else ""
    for match in re.finditer(r"\d+", words):
        if len(match[0]) <= DIGITS:
            yield f"{words[: match.start()]}\0{int(match[0]) - page}\0{words[match.end() :]}"


def _joined(pages: Sequence[str]) -> str:
    """A sentence that goes on over the page goes on in the next line."""
    parts = list(pages[:1])
    for before, page in pairwise(pages):
        goes_on = before[-1] not in ".!?:;…" and (page[0].islower() or before[-1] in "-,")
        parts += ["\n" if goes_on else "\n\n", page]
    return "".join(parts)


def _without_hyphens(text: str) -> str:
    """A word that was cut at a line's end is whole, in the upper line; its hyphen stays where the text has it elsewhere too."""
    words = Counter(re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", text.lower()))

    def put_together(match: re.Match[str]) -> str:
        first, rest = match[1], match[2]
        whole, with_hyphen = (first + rest).lower(), f"{first}-{rest}".lower()
        hyphened = words[with_hyphen] > words[whole] or (not words[whole] and ("-" in first or not rest[0].islower()))
        hyphen = "-" if hyphened and SOFT_HYPHEN not in match[0] else ""
        return f"{first}{hyphen}{rest}{match[3]}\n"

    return HYPHEN.sub(put_together, text).replace(SOFT_HYPHEN, "")
