"""PDF files, by pypdf in a process of its own: a file that makes it spin, grow or die costs that file."""

import os
import selectors
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import islice
from typing import IO

import msgspec

from adam.forge.documents import Document
from adam.forge.files import File, SkippedError, extra, open_file
from adam.forge.templates import Template, unusable

LARGEST_PDF = 256 * 1024 * 1024
# Of computing. pypdf takes some seconds for a thousand pages; a file that never ends is given up.
SECONDS, SECONDS_PER_MB = 60.0, 20.0
PATIENCE = 10  # times as long by the clock: a process that neither computes nor ends


class PdfText(msgspec.Struct):
    """The worker's answer. `reason`: why there is no text, as it is counted.

    `bad_pages`: those that could not be read, from 1; `left_out`: pages behind the last one that is read of any file.
    """

    text: str = ""
    title: str = ""
    author: str = ""
    reason: str = ""
    bad_pages: list[int] = []
    left_out: int = 0


def seconds_for(size: int) -> float:
    """How long a file of so many bytes may be computed on."""
    return SECONDS + SECONDS_PER_MB * size / 1e6


class _Worker:
    """The process; begun when it is first needed, and anew after each death. It ends with the forge, by the end of its input."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, data: bytes) -> PdfText:
        extra("pypdf", "PDF files")
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-P", "-m", "adam.forge.pdf_worker"]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(struct.pack("<Q", len(data)) + data)
            self._process.stdin.flush()
            deadline = time.monotonic() + PATIENCE * seconds_for(len(data))
            (size,) = struct.unpack("<Q", _receive(self._process.stdout, 8, deadline))
            return msgspec.json.decode(_receive(self._process.stdout, size, deadline), type=PdfText)
        except (BrokenPipeError, EOFError):
            process = self._process
            self.end()
            return PdfText(reason="pdf_timeout" if process.returncode == -signal.SIGPROF else "pdf_crashed")
        except TimeoutError:
            self.end()
            return PdfText(reason="pdf_timeout")

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                try:
                    if pipe is not None:
                        pipe.close()
                except BrokenPipeError:
                    continue  # what it was still to be told
            self._process = None


def _receive(pipe: IO[bytes], size: int, deadline: float) -> bytes:
    data = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while len(data) < size:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            block = os.read(pipe.fileno(), min(1 << 20, size - len(data)))
            if not block:
                raise EOFError
            data += block
    return data


WORKER = _Worker()


def read_pdf(file: File, _template: Template, first: int) -> Iterator[Document]:
    """The text of all pages, as prose; a page that can't be read is counted. Raises SkippedError where there is no text to be had."""
    yield from islice(_documents(file), first, None)


def _documents(file: File) -> Iterator[Document]:
    with open_file(file) as opened:
        data = opened.read(LARGEST_PDF + 1)
    if len(data) > LARGEST_PDF:
        raise SkippedError("too_large")
    found = WORKER.ask(data)
    if found.reason:
        raise SkippedError(found.reason)
    meta = {name: value for name, value in (("title", found.title), ("author", found.author)) if value}
    yield Document(found.text, meta=meta, long=True)
    yield from (unusable("damaged_page", f"page {number}") for number in found.bad_pages)
    if found.left_out:
        yield unusable("too_many_pages", f"{found.left_out} pages")
