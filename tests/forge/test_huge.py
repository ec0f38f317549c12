"""A line of four gigabytes, in every format that can have one: read to its end in bounded memory."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from adam.forge.readers_records import LONGEST_LINE

GIGABYTES = 4
MOST_MEMORY = 1_500_000_000

READ = """
import json, resource, sys
from pathlib import Path
from adam.contract.config_forge import Forge, Source
from adam.forge.files import SkippedError
from adam.forge.sources import documents, open_source
path = Path(sys.argv[1])
found, characters, skipped = {}, 0, ""
try:
    for document in documents(path, open_source(Source(path=str(path)), Forge(), path.parent)):
        found[document.dropped] = found.get(document.dropped, 0) + 1
        characters += len(document.text)
except SkippedError as error:
    skipped = str(error)
print(json.dumps([found, characters, skipped, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
"""


def read(path: Path):
    done = subprocess.run(
        [sys.executable, "-P", "-c", READ, str(path)], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    found, characters, skipped, memory = json.loads(done.stdout)
    assert memory < MOST_MEMORY
    return found, characters, skipped


def sparse(path: Path, gigabytes: float, before: bytes = b"", after: bytes = b"") -> Path:
    """A file with a hole: as large as that, and no disk is needed."""
    with path.open("wb") as file:
        file.write(before)
        file.seek(int(gigabytes * 1e9))
        file.write(after)
    return path


def packed(path: Path, gigabytes: float, block: bytes, after: bytes = b"") -> Path:
    """So much of `block`, in gzip's members."""
    member = gzip.compress(block * (64_000_000 // len(block)), 1)
    path.write_bytes(member * round(gigabytes * 1e9 / 64e6) + gzip.compress(after))
    return path


GOOD = b'{"text": "a good line"}\n'


@pytest.mark.campaign
@pytest.mark.timeout(3000)
def test_a_line_of_four_gigabytes_costs_that_line(tmp_path) -> None:
    path = sparse(tmp_path / "a.jsonl", GIGABYTES, GOOD, b"\n" + GOOD)
    assert read(path) == ({"": 2, "line_too_long": 1}, 22, "")
    path = sparse(tmp_path / "a.csv", GIGABYTES, b"text\ngood\n", b"\ngood\n")
    assert read(path) == ({"": 2, "line_too_long": 1}, 8, "")
    path = packed(tmp_path / "a.jsonl.gz", GIGABYTES, b"x", b"\n" + GOOD)
    assert read(path) == ({"": 1, "line_too_long": 1}, 11, "")


@pytest.mark.campaign
@pytest.mark.timeout(3000)
def test_four_gigabytes_of_prose_are_read_and_other_files_refused(tmp_path) -> None:
    path = packed(tmp_path / "a.txt.gz", GIGABYTES, b"x")
    found, characters, skipped = read(path)
    assert (set(found), skipped) == ({""}, "")
    assert characters == round(GIGABYTES * 1e9 / 64e6) * 64_000_000
    for name, reason in (("a.json", "too_large"), ("a.py", "too_large"), ("a.html", "too_large"), ("a.pdf", "too_large"), ("a.txt", "binary"),
                         ("a.parquet", "damaged"), ("a.arrow", "damaged")):  # fmt: skip
        path = sparse(tmp_path / name, GIGABYTES)
        assert read(path) == ({}, 0, reason)
        path.unlink()


def test_a_line_above_the_limit_costs_that_line(tmp_path) -> None:
    """As above with a little more than the limit."""
    path = sparse(tmp_path / "a.jsonl", LONGEST_LINE * 1.2 / 1e9, GOOD, b"\n" + GOOD)
    assert path.stat().st_blocks * 512 < 1_000_000 or os.uname().sysname != "Linux"
    assert read(path) == ({"": 2, "line_too_long": 1}, 22, "")
