"""What people are shown of the data: one page that no document can harm, and documents at random."""

import json
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from adam.contract.config import Trainer
from adam.contract.config_forge import Phase, Source
from adam.contract.curriculum import first_steps
from adam.contract.errors import DataError
from adam.contract.shards import load_shards
from adam.contract.states import Exit
from adam.forge import build
from adam.forge.documents import Mask
from adam.forge.figures import BINS_A_DECADE, figures, histogram
from adam.forge.page import page
from adam.forge.plots import bars, columns, share, short, stack
from adam.forge.report import lines
from adam.forge.samples import dropped, picked, visible

EVIL = "<script>alert(1)</script></pre></style><img src=x onerror=alert(2)>\" onload='x' &lt; \x1b[31m\u202e"


class Reader(HTMLParser):
    """The elements of a page, its attributes and its text; open elements must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


class Masking:
    """Masks the first word of a document, whatever it is."""

    def begin(self, documents):
        for document in documents:
            word, _, rest = document.text.partition(" ")
            document.text, document.masks = f"<P_1> {rest}", (Mask(0, 5, EVIL, word),)
            document.meta = {"title": EVIL}
        return lambda: documents

    def close(self) -> None:
        pass


@pytest.fixture
def evil(bench, folder, monkeypatch):
    """A run whose documents, names and examples all try to be markup."""
    monkeypatch.setattr(build, "open_transforms", lambda *rest: [Masking()])
    for number in range(3):
        (folder / f"evil{number}.txt").write_text(f"{EVIL}{number} " * 10)
    (folder / "<b>&.txt").write_text("too short " + EVIL[:30])
    (folder / "double.txt").write_text((folder / "03.txt").read_text())
    (folder / "bad.txt").write_bytes(b"\0")
    bench.keys |= {"sources": (Source(path=str(folder), name=EVIL, licence=EVIL),), "min_chars": 60}
    bench.tokens()
    return bench


def test_nothing_in_a_document_is_markup(evil) -> None:
    made = page(figures(evil.paths))
    found = Reader(made)
    assert found.open == []
    assert not found.tags.keys() & {"script", "img", "link", "iframe", "a", "object"}
    assert not [name for name in found.attributes if name.startswith("on") or name in ("src", "href", "action")]
    assert found.tags["style"] == 1
    assert "http://" not in made and "https://" not in made
    text = "".join(found.text)
    assert "<script>alert(1)</script>" in text  # it is shown as it is
    assert "\\x1b[31m\\u202e" in text
    assert "\x1b" not in made and "\u202e" not in made
    assert "<P_1>" in text


def test_it_says_what_was_counted(evil) -> None:
    text = " ".join("".join(Reader(page(figures(evil.paths))).text).split())
    for words in ("duplicate", "too_short", "binary", "Tokens of a document", "bytes a token", "Licences", "Before"):
        assert words in text
    shown = figures(evil.paths)
    assert shown.read == shown.written + sum(shown.dropped.values())
    assert sum(shown.lengths.counts) == shown.written == sum(shown.token_lengths.counts)
    assert shown.duplicates == 1


def test_a_run_without_masks_drops_or_tokens_has_a_page_too(bench) -> None:
    bench.shards()
    text = "".join(Reader(page(figures(bench.paths))).text)
    assert "Nothing was dropped." in text
    assert "There are none yet." in text
    assert "Masks" not in text


def test_it_says_in_which_step_a_phase_begins(bench, folder, tmp_path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for number in range(20):
        (other / f"{number}.txt").write_text(f"{number} some words of another folder " * 12)
    bench.keys["sources"] = (Source(path=str(folder)), Source(path=str(other)))
    bench.keys["phases"] = (Phase({"text": 1}, name="<b>"), Phase({"other": 1}))
    tokens, trainer = bench.tokens(), Trainer(seq_len=8, batch_size=3)
    (_, one), (_, two) = first_steps(tokens, 8, 3)
    assert (one, two > 10) == (1, True)
    text = "".join(Reader(page(figures(bench.paths, trainer))).text)
    assert f"one phase after the other: <b> from step 1 on, 2 from step {two} on" in text
    assert f"phase 2: from step {two} on" in list(lines(load_shards(bench.paths), tokens, trainer))
    (bench.paths.root / "adam.toml").write_text("[trainer]\nseq_len = 8\nbatch_size = 3\nmicro_batch = 3\n")
    out = look(bench, "report").stdout.strip()
    assert f"2 from step {two} on" in Path(out).read_text()


def test_lengths_are_counted_in_their_decades() -> None:
    made = histogram(Counter({1: 5, 9: 1, 10: 2, 99: 1, 100: 4}))
    bins = {made.first + at: count for at, count in enumerate(made.counts) if count}
    assert bins == {0: 5, BINS_A_DECADE - 1: 1, BINS_A_DECADE: 2, 2 * BINS_A_DECADE - 1: 1, 2 * BINS_A_DECADE: 4}
    assert (made.median, made.largest) == (10, 100)
    assert histogram(Counter()).counts == [0]
    assert histogram(Counter({0: 3})).counts == [3]


def test_plots_of_nothing_and_of_one_are_plots() -> None:
    for made in (bars([], "x"), bars([("a", 0.0)], "x"), stack([], "x"), columns(histogram(Counter({5: 1})), "x", "y")):
        assert Reader(made).open == []


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0"), (9.5, "9.5"), (999, "999"), (1000, "1 k"), (1234, "1.2 k"), (999_600, "1.0 M"), (5e6, "5 M")],
)
def test_numbers_are_short(number, words) -> None:
    assert short(number) == words


def test_shares_are_never_said_to_be_none() -> None:
    assert [share(part, 10_000) for part in (0, 1, 15, 1000, 10_000)] == ["0 %", "<0.1 %", "0.1 %", "10 %", "100 %"]
    assert share(0, 0) == "0 %"


def test_documents_are_picked_with_equal_chance(bench) -> None:
    shards = bench.shards()
    seen = Counter(record.id for seed in range(300) for record in picked(bench.paths, shards, 3, "", seed))
    assert len(seen) == 45
    assert max(seen.values()) < 45  # 20 are expected
    assert {record.id for record in picked(bench.paths, shards, 100, "", 1)} == {one["id"] for one in bench.records()}
    first, second = (picked(bench.paths, shards, 5, "", 7) for _ in range(2))
    assert first == second


class Naming:
    """Gives documents a `source` of their own, as a set of the Hub may have a column of that name."""

    def begin(self, documents):
        return lambda: [msgspec.structs.replace(document, meta={"source": "text"}) for document in documents]

    def close(self) -> None:
        pass


def test_a_source_is_told_from_metadata_that_name_it(bench, folder, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(build, "open_transforms", lambda *rest: [Naming()])
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.txt").write_text("a text that is long enough to be kept, with some words more than that")
    bench.keys["sources"] = (Source(path=str(folder)), Source(path=str(other)))
    shards = bench.shards()
    assert {record.source for record in picked(bench.paths, shards, 100, "text", 1)} == {"text"}
    assert [record.source for record in picked(bench.paths, shards, 100, "other", 1)] == ["other"]
    with pytest.raises(DataError, match="there is no source 'none'; the sources are text, other"):
        picked(bench.paths, shards, 1, "none", 1)


def test_examples_of_drops_are_found_by_reason(bench, folder) -> None:
    (folder / "short.txt").write_text("too short")
    (folder / "double.txt").write_text((folder / "03.txt").read_text())
    shards = bench.shards()
    assert {one.reason for one in dropped(shards)} == {"too_short", "duplicate"}
    (one,) = dropped(shards, "too_short")
    assert (one.text, one.source) == ("too short", "text")
    with pytest.raises(DataError, match="reasons are duplicate, too_short"):
        dropped(shards, "poison")


def test_control_characters_are_spelled_out() -> None:
    assert visible("a\x1b[2Jb\r\x07\x9b\u202e\n\té") == "a\\x1b[2Jb\\x0d\\x07\\x9b\\u202e\n\té"


def look(bench, *words: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "adam.daemon.cli", "forge", *words, "--run", str(bench.paths.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", timeout=100)
    assert done.returncode == expect, done.stderr
    return done


def test_by_adamctl(evil) -> None:
    out = evil.paths.root / "forge-report.html"
    assert look(evil, "report").stdout.strip() == str(out)
    assert Reader(out.read_text()).tags["svg"] >= 5
    lines = look(evil, "sample", "-n", "4", "--seed", "3", "--json").stdout.splitlines()
    assert len(lines) == 4
    assert {json.loads(line)["id"] for line in lines} <= {record["id"] for record in evil.records()}
    shown = look(evil, "sample", "--source", EVIL).stdout
    assert "\x1b" not in shown and "\u202e" not in shown
    assert "1 masks" in shown
    assert "dropped: too_short" in look(evil, "sample", "--dropped", "too_short").stdout
    assert "duplicate" in look(evil, "sample", "--dropped", "-n", "9").stdout
    assert "reasons are" in look(evil, "sample", "--dropped", "poison", expect=Exit.DATA).stderr
    assert "-n 0" in look(evil, "sample", "-n", "0", expect=Exit.USAGE).stderr


def test_without_shards_it_says_how_to_get_them(bench) -> None:
    assert "`adamctl forge` makes them" in look(bench, "report", expect=Exit.DATA).stderr
    assert "`adamctl forge` makes them" in look(bench, "sample", expect=Exit.DATA).stderr
