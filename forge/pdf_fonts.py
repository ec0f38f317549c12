"""Fonts whose codes are numbers of glyphs (Identity-H, as XeTeX and LuaTeX make them): where words end.

Their spaces are gaps, which are compared with the width of a space. pypdf (7.1) takes that of glyph number 32 for it, whatever that
glyph is; where it is wide, words run together. A width of 0 makes pypdf take its default for fonts without a space.
"""

from typing import Any

from pypdf import PageObject
from pypdf.generic import ArrayObject, DictionaryObject, NameObject, NumberObject

GLYPH = 32
DEEPEST = 8  # forms within forms


def forget_wrong_spaces(page: PageObject) -> None:
    """Change the fonts of a page and of the forms on it, in memory. Raises whatever pypdf does of broken ones."""
    _forget(page.get("/Resources"), 0)


def _forget(resources: Any, depth: int) -> None:
    found = _dictionary(resources)
    for font in _dictionary(found.get("/Font")).values():
        described = _dictionary(font)
        if described.get("/Subtype") == "/Type0" and str(described.get("/Encoding", "")).startswith("/Identity"):
            for descendant in _list(described.get("/DescendantFonts")):
                _without_width(_dictionary(descendant))
    if depth < DEEPEST:
        for form in _dictionary(found.get("/XObject")).values():
            if _dictionary(form).get("/Subtype") == "/Form":
                _forget(_dictionary(form).get("/Resources"), depth + 1)


def _dictionary(value: Any) -> DictionaryObject:
    """What a reference stands for; empty where it is no dictionary."""
    value = value.get_object() if value is not None else None
    return value if isinstance(value, DictionaryObject) else DictionaryObject()


def _list(value: Any) -> list[Any]:
    value = value.get_object() if value is not None else None
    return list(value) if isinstance(value, list) else []


def _without_width(font: DictionaryObject) -> None:
    """Widths are FIRST [WIDTH …] or FIRST LAST WIDTH, one after the other (ISO 32000-2, 9.7.4.3)."""
    given, kept, at = _list(font.get("/W")), ArrayObject(), 0
    while at + 1 < len(given):
        first, second = int(given[at]), given[at + 1].get_object()
        if isinstance(second, list):
            own = ArrayObject(second)
            if first <= GLYPH < first + len(own):
                own[GLYPH - first] = NumberObject(0)
            kept.extend([given[at], own])
            at += 2
        else:
            kept.extend(given[at : at + 3])
            if first <= GLYPH <= int(second):
                kept.extend([NumberObject(GLYPH), ArrayObject([NumberObject(0)])])
            at += 3
    font[NameObject("/W")] = kept
