"""Broken files of every kind: no crash, no hang, and nothing vanishes: a document, a reason for it, or a reason for the file.

How files are broken: `broken_files`; what they must give nevertheless: `read_again`, which reads them by other means.
"""

import faulthandler
import io
import json
import random
import resource
import time
from collections import Counter
from pathlib import Path

import pytest

from adam.contract.config_forge import Forge, Source
from adam.forge import readers_pdf
from adam.forge.files import SkippedError
from adam.forge.parts import opener_of, parts
from adam.forge.sources import Origin, documents, open_source

pytest.importorskip("pyarrow")
import read_again
from broken_files import broken
from forge_files import MAKERS, PACKERS, ROWS, as_jsonl, as_pdf, as_pdf_of_pages

PROSE = ("A paragraph of été → text.\n\n" * 40).encode()
PAGE = b"""<!DOCTYPE html><html><head><title>T</title><meta charset="utf-8"></head><body><h1>A head</h1>
<p>One &amp; two</p><pre>a\n b</pre><ul><li>x<li>y</ul>
<table><tr><td>1</td><td>2</td></tr></table><!-- no --><p>last \xc3\xa9</p></body></html>"""
BOOK = "The Project Gutenberg EBook of Mills, by A. Harrow\n\nTitle: Mills\n\nAuthor: A. Harrow\n\n"
BOOK += "*** START OF THIS PROJECT GUTENBERG EBOOK MILLS ***\n\n"
BOOK += "Produced by Some Body\n\n" + "".join(
    f"CHAPTER {n}\n\nThe mill of number {n} [sic] stood\nstill.\n\n" for n in range(40)
)
BOOK += "*** END OF THIS PROJECT GUTENBERG EBOOK MILLS ***\n\nUpdated editions will replace the previous one.\n"
TALK = [
    {"messages": [{"role": "user", "content": f"Question {n}?"}, {"role": "assistant", "content": f"Answer {n}."}]}
    for n in range(40)
]
XML = b"<?xml version='1.0'?>\n<!DOCTYPE a [<!ENTITY e 'text'>]>\n" + b"<a><b c='1'>text &e;</b></a>\n" * 20
GOOD: dict[str, bytes] = {
    **{name: make(ROWS[:60] if "ar" in name else ROWS[:15]) for name, make in MAKERS.items()},
    **{f"a.jsonl{ending}": as_jsonl(ROWS[:15]) for ending in PACKERS},
    "a.csv.gz": MAKERS["a.csv"](ROWS[:15]), "a.txt.xz": PROSE, "a.html.bz2": PAGE,
    "a.txt": PROSE, "a.md": PROSE, "a.rst": PROSE, "a.tex": PROSE, "a.html": PAGE, "a.xml": XML,
    "a.py": b"def f():\n    return 1\n" * 20, "a.c": b"#include <stdio.h>\nint main(void) { return 0; }\n" * 20,
    "a.yaml": b"a: &x 1\nb:\n  - c: *x\n" * 9, "a.toml": b"[a]\nb = 1\n" * 9,
    "a.pdf": as_pdf(["Hello there,", "this is a page."] * 10), "pages.pdf": as_pdf_of_pages([f"This is page {n}." for n in range(5)]),
    "book.txt": BOOK.encode(), "chat.jsonl": "\n".join(map(json.dumps, TALK)).encode(),
}  # fmt: skip
SOURCES = {"book.txt": {"text": "books"}, "chat.jsonl": {"messages": "messages", "answers": ("messages",)}}
SECONDS = 30.0  # of this process's time for one file; a reader that needs them hangs


class InMemory:
    """A file that needs no disk: the campaign writes a quarter of a million."""

    digest = ""

    def __init__(self, name: str, data: bytes) -> None:
        self.name, self.size, self._data = name, len(data), data

    def open(self, mode: str) -> io.BytesIO:
        assert mode == "rb"
        return io.BytesIO(self._data)


def origin_of(name: str, folder: Path) -> Origin:
    (folder / name).touch()
    return open_source(Source(path=str(folder / name), **SOURCES.get(name, {})), Forge(), folder)


def read(name: str, data: bytes, origin: Origin, first: int = 0) -> tuple[list, str]:
    """(documents from record `first` on, why the file ended early); all that is given is looked at."""
    found, opener = [], opener_of(origin.source)
    try:
        for document in documents(InMemory(name, data), origin, first):
            found.append(document)
            for part in parts(document, opener):
                part.text.encode()
                part.example.encode()
                assert "\r" not in part.text
                assert all(isinstance(value, str) for value in part.meta.values())
                assert [span.start for span in part.spans] == sorted(span.start for span in part.spans)
    except SkippedError as error:
        return found, str(error)
    return found, ""


def fuzz(folder: Path, name: str, count: int, seed: int) -> Counter[str]:
    """How the files ended, and what their records were dropped for. A file that fails is left in `folder`."""
    rng, seen, origin = random.Random(seed), Counter(), origin_of(name, folder)
    check = read_again.chat if name == "chat.jsonl" else read_again.check_named(name)
    for number in range(count):
        wrong = broken(name, GOOD[name], rng)
        if number % 250 == 0:
            faulthandler.dump_traceback_later(3000, exit=True)
        began = time.process_time()
        try:
            found, skipped = read(name, wrong, origin)
            assert time.process_time() - began < SECONDS
            check(wrong, found, skipped)
            if found and rng.random() < 0.2:
                _goes_on(name, wrong, origin, found, skipped, rng.randrange(len(found) + 1))
        except BaseException:
            (folder / name).write_bytes(wrong)
            raise
        seen.update({skipped or "read": 1, **Counter(f"({one.dropped})" for one in found if one.dropped)})
    faulthandler.cancel_dump_traceback_later()
    return seen


def _goes_on(name: str, data: bytes, origin: Origin, found: list, skipped: str, first: int) -> None:
    """A forge that was killed behind record `first` gets what is behind it."""
    again, why = read(name, data, origin, first)
    assert why == skipped
    assert [(one.text, one.dropped) for one in again] == [(one.text, one.dropped) for one in found[first:]]


@pytest.fixture(autouse=True)
def quick_pdf(monkeypatch):
    monkeypatch.setattr(readers_pdf, "SECONDS", 20.0)
    yield
    readers_pdf.WORKER.end()


@pytest.mark.parametrize("name", GOOD)
def test_the_good_ones_are_read(tmp_path, name) -> None:
    ending = Path(name).suffix
    data = PACKERS[ending](GOOD[name]) if ending in PACKERS else GOOD[name]
    found, skipped = read(name, data, origin_of(name, tmp_path))
    assert not skipped
    assert found
    assert not any(document.dropped for document in found)


@pytest.mark.parametrize("name", GOOD)
def test_broken_files_cost_themselves(tmp_path, name) -> None:
    fuzz(tmp_path, name, 25, 1)


@pytest.mark.campaign
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", GOOD)
def test_ten_thousand_broken_files_of_each_kind(tmp_path, name) -> None:
    began, cpu = time.monotonic(), time.process_time()
    seen = fuzz(tmp_path, name, 10_000, 2)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{name}: {time.monotonic() - began:.0f} s, {time.process_time() - cpu:.0f} s of CPU, {memory:.2f} GB, {dict(seen.most_common())}"
    )
    assert seen["read"] < 10_000
    assert memory < 1.5


def test_a_forge_over_broken_files_counts_each(bench, folder, tmp_path) -> None:
    """The whole way: every file is listed, every skipped one with its reason, and what was read is accounted for."""
    over_broken_files(bench, folder, 4)


@pytest.mark.campaign
@pytest.mark.timeout(7200)
def test_a_forge_over_ten_thousand_broken_files_counts_each(bench, folder, tmp_path) -> None:
    over_broken_files(bench, folder, 10_000 // len(GOOD))


def over_broken_files(bench, folder: Path, each: int) -> None:
    rng, names = random.Random(5), []
    for name, data in GOOD.items():
        for number in range(each):
            (folder / f"{number}-{name}").write_bytes(broken(name, data, rng))
            names.append(f"{number}-{name}")
    (source,) = bench.shards().sources
    assert source.documents_read == source.documents_written + sum(source.dropped.values())
    assert set(source.examples) == set(source.dropped)
    assert all(example.path for examples in source.examples.values() for example in examples)
    listed = [json.loads(line) for line in (bench.paths.shards / "sources.jsonl").read_text().splitlines()]
    assert {Path(entry["path"]).name for entry in listed} >= set(names)
    assert sum(bool(entry["skipped"]) for entry in listed) == sum(source.files_skipped.values()) > 5
