"""Pages of PDF files put together: heads and feet, words cut at a line's end, leaders, accents, pages that can't be read."""

import io
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from adam.contract.config_forge import Forge, Source
from adam.forge import readers_pdf
from adam.forge.files import SkippedError
from adam.forge.pdf_text import text_of_pages
from adam.forge.sources import documents, open_source

SENTENCES = [f"Sentence {'abcdefghijklmnopqrstuvwxyz'[number]} of a chapter." for number in range(20)]


def test_running_heads_feet_and_page_numbers_go() -> None:
    pages = [
        f"{f'{n + 7} A Manual' if n % 2 else f'Chapter {n // 10 + 1}: Heads {n + 7}'}\n\n{sentence}\nUser Guide\nPage {n + 7}"
        for n, sentence in enumerate(SENTENCES)
    ]
    assert text_of_pages(pages) == "\n\n".join(SENTENCES)
    assert text_of_pages([f"{sentence}\n- {n} -" for n, sentence in enumerate(SENTENCES)]) == "\n\n".join(SENTENCES)


def test_a_head_that_is_on_one_page_only_is_known_by_the_page_number() -> None:
    heads = [f"{n + 7} A MANUAL" if n % 2 else f"{n}.1 A SECTION OF ITS OWN {n + 7}" for n in range(20)]
    pages = [f"{head}\n{sentence}" for head, sentence in zip(heads, SENTENCES, strict=True)]
    assert text_of_pages(pages) == "\n\n".join(SENTENCES)


@pytest.mark.parametrize(
    "first",
    [
        lambda n: f"{n * n} {n * 3}",  # a table's numbers
        lambda n: "}",  # code
        lambda n: f"Figure {n // 3}: of something",
        lambda n: "The same words" if n % 7 == 0 else f"Other words {n * n}",
    ],
)
def test_other_first_lines_stay(first) -> None:
    pages = [f"{first(n)}\n{sentence}" for n, sentence in enumerate(SENTENCES)]
    assert text_of_pages(pages).split() == "\n".join(pages).split()


def test_few_pages_have_no_running_heads() -> None:
    assert text_of_pages(["Title 1\na.", "Title 2\nb."]) == "Title 1\na.\n\nTitle 2\nb."


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("Eventu-\nally, it ends.", "Eventually,\nit ends."),
        ("the last eventu-\nally.\nNext line", "the last eventually.\nNext line"),
        ("a big-endian and a big-\nendian one", "a big-endian and a big-endian\none"),
        ("named Jean-\nPaul there", "named Jean-Paul\nthere"),
        ("say --no-\nclobber here", "say --no-clobber\nhere"),
        ("soft\u00ad\nly and soft\u00adly", "softly\nand softly"),
        ("x - \ny and 3-\n4 and a --\nb", "x -\ny and 3-\n4 and a --\nb"),
    ],
)
def test_words_that_were_cut_are_whole(text: str, whole: str) -> None:
    assert text_of_pages([text]) == whole


def test_sentences_go_on_over_the_page() -> None:
    assert text_of_pages(["It goes", "on here."]) == "It goes\non here."
    assert text_of_pages(["It ends.", "on"]) == "It ends.\n\non"
    assert text_of_pages(["A word is cut in-\n", "", "to two."]) == "A word is cut into\ntwo."


def test_leaders_ligatures_and_accents() -> None:
    assert text_of_pages(["1.2 Names . . . . . . . . . 12\nshell.......... 4, 77\nand so on ..."]) == (
        "1.2 Names\t12\nshell.......... 4, 77\nand so on ..."
    )
    assert text_of_pages(["e\ufb03cient \ufb01les"]) == "efficient files"
    assert text_of_pages(["f¨ugg˝oleges m´ıg ´es"]) == "függőleges míg és"
    assert text_of_pages(["it´s `echo` x^y ´q"]) == "it´s `echo` x^y ´q"


def broken(pages: list[str], bad: int) -> bytes:
    """A PDF file whose page `bad` (from 0) can't be read: nobody knows how it is encrypted."""
    pypdf = pytest.importorskip("pypdf")
    from forge_files import as_pdf
    from pypdf.generic import DictionaryObject, NameObject, StreamObject

    writer = pypdf.PdfWriter()
    for text in pages:
        writer.append(io.BytesIO(as_pdf([text])))
    stream = StreamObject()
    stream._data = b"x"
    stream[NameObject("/Filter")] = NameObject("/Crypt")
    stream[NameObject("/DecodeParms")] = DictionaryObject({NameObject("/Name"): NameObject("/Unknown")})
    writer.pages[bad][NameObject("/Contents")] = writer._add_object(stream)
    data = io.BytesIO()
    writer.write(data)
    return data.getvalue()


def read(path: Path, first: int = 0) -> list:
    return list(documents(path, open_source(Source(path=str(path)), Forge(), path.parent), first))


def test_a_page_that_can_not_be_read_is_counted(tmp_path) -> None:
    (tmp_path / "a.pdf").write_bytes(broken(["one.", "two.", "three."], 1))
    good, bad = read(tmp_path / "a.pdf")
    assert good.text == "one.\n\nthree."
    assert (bad.dropped, bad.example) == ("damaged_page", "page 2")
    assert [document.dropped for document in read(tmp_path / "a.pdf", 1)] == ["damaged_page"]


def test_a_file_is_given_up_by_what_it_computes_not_by_the_clock(tmp_path, monkeypatch) -> None:
    """On a machine that is busy, or stopped for a while, a file gives what it always gives."""
    from forge_files import as_pdf

    (tmp_path / "a.pdf").write_bytes(as_pdf(["x"]))
    spin = "import signal; signal.setitimer(signal.ITIMER_PROF, 0.1)\nwhile True: pass"
    real = subprocess.Popen
    readers_pdf.WORKER.end()
    with monkeypatch.context() as context:
        context.setattr(readers_pdf.subprocess, "Popen", lambda _, **k: real([sys.executable, "-c", spin], **k))
        with pytest.raises(SkippedError, match="pdf_timeout"):
            read(tmp_path / "a.pdf")
    assert read(tmp_path / "a.pdf")[0].text == "x"
    readers_pdf.WORKER.end()
    assert signal.getsignal(signal.SIGPROF) == signal.SIG_DFL


def test_pages_that_are_nothing_but_numbered_lines_are_kept() -> None:
    """They look like running heads, every one; the fuzz of broken files lost a whole file so."""
    text = text_of_pages([f"This is page {number}.\n" for number in range(5)])
    assert [line for line in text.split("\n") if line] == [f"This is page {number}." for number in range(5)]
