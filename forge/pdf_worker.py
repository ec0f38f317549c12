"""`python -m adam.forge.pdf_worker`: PDF files on standard input, their text on standard output. See `readers_pdf`.

Each message is its length (8 bytes, little endian) and its bytes; an answer is a `PdfText` as JSON.
"""

import contextlib
import io
import logging
import re
import resource
import signal
import struct
import sys
import warnings
from typing import IO

import msgspec
from pypdf import PdfReader

from adam.contract.process import die_with_parent
from adam.forge.pdf_fonts import forget_wrong_spaces
from adam.forge.pdf_text import text_of_pages
from adam.forge.readers_pdf import PdfText, seconds_for

MEMORY = 2 << 30
MOST_PAGES = 20_000


def text_of(data: bytes) -> PdfText:
    """The text of a file, page by page; a page that can't be read costs itself where others can."""
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            return PdfText(reason="encrypted")
        pages, bad = [], []
        for number in range(min(MOST_PAGES, len(reader.pages))):
            try:
                page = reader.pages[number]
                forget_wrong_spaces(page)
                pages.append(_clean(page.extract_text()))
            except Exception:  # noqa: BLE001  (pypdf raises whatever the broken bytes lead it to)
                pages.append("")
                bad.append(number + 1)
        text = text_of_pages(pages)
        if not text:
            return PdfText(reason="damaged" if bad else "no_text")
        about = None
        with contextlib.suppress(Exception):
            about = reader.metadata
        title, author = (_clean(str(value or "")) for value in (about.title, about.author)) if about else ("", "")
        return PdfText(text, title, author, bad_pages=bad, left_out=max(0, len(reader.pages) - MOST_PAGES))
    except MemoryError:
        return PdfText(reason="too_large")
    except Exception:  # noqa: BLE001  (as above)
        return PdfText(reason="damaged")


def _clean(text: str) -> str:
    """Without control characters, blanks at the ends of lines, lone surrogates, and blank lines at both ends."""
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", " ", text.replace("\r\n", "\n").replace("\r", "\n").replace("\f", "\n"))
    return re.sub(r"[ \t]+(?:\n|$)", "\n", text).strip("\n").encode(errors="replace").decode()


def main(incoming: IO[bytes], outgoing: IO[bytes]) -> None:
    while len(head := incoming.read(8)) == 8:
        data = incoming.read(*struct.unpack("<Q", head))
        # Of computing, not of the clock: what a file gives must not hang on how busy the machine is. SIGPROF ends the process.
        signal.setitimer(signal.ITIMER_PROF, seconds_for(len(data)))
        answer = msgspec.json.encode(text_of(data))
        signal.setitimer(signal.ITIMER_PROF, 0)
        outgoing.write(struct.pack("<Q", len(answer)) + answer)
        outgoing.flush()


if __name__ == "__main__":
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    main(sys.stdin.buffer, sys.stdout.buffer)
