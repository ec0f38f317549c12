"""Broken files of every kind: no crash, no hang, and nothing vanishes: a document, a reason for it, or a reason for the file."""

import json
import random
import time
from pathlib import Path

import pytest

from adam.contract.config_forge import Forge, Source
from adam.forge import readers_pdf
from adam.forge.files import SkippedError
from adam.forge.sources import documents, open_source

pytest.importorskip("pyarrow")
from forge_files import MAKERS, PACKERS, ROWS, as_jsonl, as_pdf

PROSE = ("A paragraph of été → text.\n\n" * 40).encode()
PAGE = b"<html><head><title>T</title></head><body><p>One &amp; two</p><pre>a\n b</pre><ul><li>x</ul></body></html>"
GOOD: dict[str, bytes] = {
    **{name: make(ROWS[:60]) for name, make in MAKERS.items()},
    **{f"a.jsonl{ending}": pack(as_jsonl(ROWS[:60])) for ending, pack in PACKERS.items()},
    "a.txt": PROSE, "a.md": PROSE, "a.rst": PROSE, "a.html": PAGE, "a.xml": b"<?xml version='1.0'?>\n<a><b>text</b></a>\n" * 5,
    "a.py": b"def f():\n    return 1\n" * 20, "a.yaml": b"a: 1\nb:\n  - c\n" * 9, "a.toml": b"[a]\nb = 1\n" * 9,
    "a.pdf": as_pdf(["Hello there,", "this is a page."] * 10),
}  # fmt: skip


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A few small wrongs: bytes that changed, are missing, came twice or are zeros, an end that is missing."""
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        at = rng.randrange(len(data) + 1)
        size = rng.choice([1, 1, 4, 64])
        match rng.randrange(7):
            case 0:
                data = data[:at] + rng.randbytes(size) + data[at + size :]
            case 1:
                data = data[:at] + data[at + size :]
            case 2:
                data = data[: at + size] + data[at:]
            case 3:
                data = data[:at] + bytes(min(size, len(data) - at)) + data[at + size :]
            case 4:
                data = data[:at] if rng.random() < 0.2 else data
            case 5:
                data = data[:at] + rng.choice([b'"', b"\n", b"{", b"<", b"\xff", b"\\u", b"]]>", b"<!"]) + data[at:]
            case 6 if at < len(data):
                data = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        data = data or b"\0"
    return data


def read(path: Path) -> tuple[int, int, str]:
    """(documents, bad records, why the file ended early) of a file; all that is given is looked at."""
    origin = open_source(Source(path=str(path)), Forge(), path.parent)
    good, bad = 0, 0
    try:
        for document in documents(path, origin):
            document.text.encode()
            document.example.encode()
            assert "\r" not in document.text
            assert all(isinstance(value, str) for value in document.meta.values())
            good, bad = good + (not document.dropped), bad + bool(document.dropped)
    except SkippedError as error:
        return good, bad, str(error)
    return good, bad, ""


def lines_of(name: str, data: bytes) -> int | None:
    """The records that a file of lines has; None of other kinds, whose records are not to be counted without reading them."""
    return sum(bool(line.strip()) for line in data.split(b"\n")) if name == "a.jsonl" else None


def fuzz(tmp_path: Path, name: str, count: int, seed: int) -> dict[str, int]:
    rng, path, seen = random.Random(seed), tmp_path / name, {"": 0}
    for _ in range(count):
        data = mutated(GOOD[name], rng)
        path.write_bytes(data)
        began = time.monotonic()
        good, bad, skipped = read(path)
        assert time.monotonic() - began < 100
        expected = lines_of(name, data)
        assert expected is None or good + bad == expected
        seen[skipped] = seen.get(skipped, 0) + 1
    return seen


@pytest.fixture(autouse=True)
def quick_pdf(monkeypatch):
    monkeypatch.setattr(readers_pdf, "SECONDS", 20.0)
    yield
    readers_pdf.WORKER.end()


@pytest.mark.parametrize("name", GOOD)
def test_the_good_ones_are_read(tmp_path, name) -> None:
    (tmp_path / name).write_bytes(GOOD[name])
    good, bad, skipped = read(tmp_path / name)
    assert (bad, skipped) == (0, "")
    assert good >= 1


@pytest.mark.parametrize("name", GOOD)
def test_broken_files_cost_themselves(tmp_path, name) -> None:
    fuzz(tmp_path, name, 25, 1)


@pytest.mark.campaign
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", GOOD)
def test_ten_thousand_broken_files_of_each_kind(tmp_path, name) -> None:
    seen = fuzz(tmp_path, name, 10_000, 2)
    assert seen[""] < 10_000 or name in ("a.jsonl", "a.html")


def test_a_forge_over_broken_files_counts_each(bench, folder, tmp_path) -> None:
    """The whole way: every file is listed, every skipped one with its reason, and what was read is accounted for."""
    rng, names = random.Random(5), []
    for name, data in GOOD.items():
        for number in range(4):
            file = f"{number}-{name}"
            (folder / file).write_bytes(mutated(data, rng))
            names.append(file)
    manifest = bench.shards()
    (source,) = manifest.sources
    assert source.documents_read == source.documents_written + sum(source.dropped.values())
    listed = [json.loads(line) for line in (bench.paths.shards / "sources.jsonl").read_text().splitlines()]
    assert {Path(entry["path"]).name for entry in listed} >= set(names)
    assert sum(bool(entry["skipped"]) for entry in listed) == sum(source.files_skipped.values()) > 5
