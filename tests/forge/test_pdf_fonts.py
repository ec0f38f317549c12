"""Where words end in PDF files of XeTeX and LuaTeX: half of the words of four real manuals ran together."""

import io

import pytest
from pypdf import PdfWriter
from pypdf.generic import ArrayObject, DecodedStreamObject, DictionaryObject, NameObject, NumberObject

from adam.forge.pdf_worker import text_of

# Glyphs 1 and 2 are a and b; between them a gap of a fourth of an em.
CONTENT = b"BT /F1 10 Tf 50 700 Td [<0001>-250<0002>] TJ ET"
UNICODE = b"""begincmap 1 begincodespacerange <0000> <ffff> endcodespacerange
3 beginbfchar <0001> <0061> <0002> <0062> <0020> <003d> endbfchar endcmap"""


def stream(data: bytes, **keys: object) -> DecodedStreamObject:
    made = DecodedStreamObject()
    made.set_data(data)
    made.update({NameObject(f"/{key}"): value for key, value in keys.items()})
    return made


def pdf_with(widths: list[object], *, in_a_form: bool = False) -> bytes:
    """A page with such a font, which has these widths."""
    name, writer = NameObject, PdfWriter()
    page = writer.add_blank_page(595, 842)
    described = {
        "/Type": name("/Font"),
        "/Subtype": name("/CIDFontType0"),
        "/BaseFont": name("/X"),
        "/DW": NumberObject(600),
    }
    own = DictionaryObject({name(key): value for key, value in described.items()})
    own[name("/W")] = ArrayObject(
        ArrayObject(map(NumberObject, item)) if isinstance(item, list) else NumberObject(item) for item in widths
    )
    font = DictionaryObject(
        {
            name("/Type"): name("/Font"),
            name("/Subtype"): name("/Type0"),
            name("/BaseFont"): name("/X"),
            name("/Encoding"): name("/Identity-H"),
            name("/DescendantFonts"): ArrayObject([writer._add_object(own)]),
            name("/ToUnicode"): writer._add_object(stream(UNICODE)),
        }
    )
    resources = DictionaryObject({name("/Font"): DictionaryObject({name("/F1"): writer._add_object(font)})})
    content = CONTENT
    if in_a_form:
        form = stream(CONTENT, Type=name("/XObject"), Subtype=name("/Form"), Resources=resources)
        form[name("/BBox")] = ArrayObject(map(NumberObject, [0, 0, 595, 842]))
        resources = DictionaryObject({name("/XObject"): DictionaryObject({name("/X1"): writer._add_object(form)})})
        content = b"/X1 Do"
    page[name("/Resources")] = resources
    page[name("/Contents")] = writer._add_object(stream(content))
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


@pytest.mark.parametrize("in_a_form", [False, True])
@pytest.mark.parametrize(
    "widths",
    [[1, [500, 500], 32, [1000]], [1, [500] * 31 + [1000] + [400]], [1, 31, 500, 32, 40, 1000], [20, 40, 1000]],
)
def test_a_wide_glyph_number_32_is_no_space(widths, in_a_form) -> None:
    assert text_of(pdf_with(widths, in_a_form=in_a_form)).text.split() == ["a", "b"]


def test_widths_that_are_none_cost_at_most_their_page() -> None:
    for widths in ([32], [[32], 1], [1, [500, 500], 32]):
        assert text_of(pdf_with(widths)).reason in ("", "damaged")
