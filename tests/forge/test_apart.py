"""Train and validation share no document, no book and no near duplicate: looked at by a plain comparison of all pairs.

The checker is not the forge's code: 5-grams of words as sets, and their Jaccard similarity, of what was read (masks undone).
"""

import json
import random
import re
from itertools import product
from pathlib import Path

import pytest
from spacy_models import ruler_model

from adam.contract.config_filters import Filters
from adam.contract.config_forge import Phase, Source
from adam.contract.config_skeletons import Skeletons
from adam.contract.errors import StoppedError
from adam.forge import build

SIMILAR = 0.8
NAMES = ["Marie Curie", "Ada Lovelace", "Alan Turing", "<PERSON_1>", "Paris", "Royal Society", "Vienna", "<GPE>"]
VOCABULARY = [f"word{n}" for n in range(5000)] + NAMES * 40


def varied(rng: random.Random, count: int = 120) -> list[str]:
    return rng.choices(VOCABULARY, k=count)


def changed(words: list[str], rng: random.Random, changes: int) -> list[str]:
    words = list(words)
    for at in rng.sample(range(len(words)), changes):
        words[at] = rng.choice(VOCABULARY)
    return words


def family(rng: random.Random) -> list[str]:
    """A text, itself again, and others that differ from it in one to six words: 0.6 to 0.92 similar."""
    words = varied(rng)
    texts = [words, words, *(changed(words, rng, 1 + number % 6) for number in range(rng.randint(1, 8)))]
    return [" ".join(text) for text in texts]


def book(rng: random.Random, title: str, chapters: list[str]) -> str:
    body = "\n\n".join(chapters)
    marks = [f"*** {what} OF THE PROJECT GUTENBERG EBOOK {title.upper()} ***" for what in ("START", "END")]
    return f"Title: {title}\n\nAuthor: A. Nobody\n\n{marks[0]}\n\n{body}\n\n{marks[1]}\n"


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Two sources of records whose near duplicates are spread over both, and one of books that share chapters with them."""
    rng, folder = random.Random(7), tmp_path / "corpus"
    texts = [text for _ in range(60) for text in family(rng)]
    rng.shuffle(texts)
    for number, name in enumerate(("a", "b")):
        (folder / name).mkdir(parents=True)
        lines = [json.dumps({"text": text}) for text in texts[number::2]]
        (folder / name / "records.jsonl").write_text("\n".join(lines))
    (folder / "books").mkdir()
    for number in range(8):
        chapters = [" ".join(varied(rng, 700)) for _ in range(3)]
        for edition in range(2):
            shared = [texts[number], " ".join(changed(chapters[0].split(), rng, 2)), *chapters[1:]]
            (folder / "books" / f"{number}-{edition}.txt").write_text(book(rng, f"Tale {number}", shared))
    return folder


def read_text(record: dict) -> str:
    """The text that was read: what masking wrote is undone, last first."""
    text = record["text"]
    for start, end, _, original in reversed(record.get("masks", [])):
        text = text[:start] + original + text[end:]
    return text


def grams(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+", text.lower())
    return {tuple(words[at : at + 5]) for at in range(len(words) - 4)}


def sides(bench) -> dict[str, list[dict]]:
    return {
        split: [
            json.loads(line)
            for path in sorted(bench.paths.shards.glob(f"{split}-*.jsonl"))
            for line in path.read_text().splitlines()
        ]
        for split in ("train", "val")
    }


def pairs_across(bench, least: float = SIMILAR) -> list[float]:
    """The similarities of all pairs of a train and a val document that are near duplicates."""
    train, val = ([grams(read_text(record)) for record in side] for side in sides(bench).values())
    assert min(len(train), len(val)) > 20
    alike = (len(one & other) / max(1, len(one | other)) for one, other in product(train, val))
    return [similarity for similarity in alike if similarity >= least]


def check_apart(bench) -> None:
    train, val = sides(bench).values()
    for what in ("id", "group"):
        assert not {record.get(what, record["id"]) for record in train} & {
            record.get(what, record["id"]) for record in val
        }
    assert not {read_text(record) for record in train} & {read_text(record) for record in val}
    assert pairs_across(bench) == []


def sources(corpus: Path) -> tuple[Source, ...]:
    return (
        Source(path=str(corpus / "a"), name="a"),
        Source(path=str(corpus / "b"), name="b"),
        Source(path=str(corpus / "books"), name="books", text="books"),
    )


CURRICULUM = (
    Phase(shares={"a": 2, "books": 1}, target=60, unit="documents"),
    Phase(shares={"a": 1, "b": 1, "books": 1}, when_dry="repeat", repeats=2, target=600),
)


@pytest.fixture
def mixed(bench_at, corpus):
    """name, keys -> a forge over all three sources in two phases."""

    def open_bench(name: str = "run", **keys: object):
        bench = bench_at(name)
        bench.keys |= {"sources": sources(corpus), "phases": CURRICULUM, "val_fraction": 0.3, "workers": 1, **keys}
        return bench

    return open_bench


def test_the_checker_sees_what_a_split_by_the_hash_of_the_text_does(mixed) -> None:
    """With neither the filter nor `val_apart`, as it was at first: dozens of pairs on both sides."""
    bench = mixed(val_apart=False)
    bench.shards()
    assert len(pairs_across(bench)) > 50


@pytest.mark.parametrize("near_duplicates", [0.0, 0.8, 0.95])
def test_train_and_val_share_no_near_duplicate(mixed, near_duplicates) -> None:
    bench = mixed(filters=Filters(near_duplicates=near_duplicates))
    manifest = bench.shards()
    (check_apart(bench) if near_duplicates < 0.9 else None)
    assert pairs_across(bench, near_duplicates or SIMILAR) == []
    dropped = {reason for source in manifest.sources for reason in source.dropped}
    assert "duplicate" in dropped
    assert ("near_duplicate" in dropped) == bool(near_duplicates)
    for source in manifest.sources:
        assert source.documents_read == source.documents_written + sum(source.dropped.values())


def test_skeletons_change_nothing_of_it(mixed, tmp_path) -> None:
    pytest.importorskip("spacy")
    model = str(ruler_model(tmp_path / "model"))
    bench = mixed(skeletons=Skeletons(enabled=True, model=model, share=0.6, search_share=0.3, processes=1))
    manifest = bench.shards()
    check_apart(bench)
    assert sum(source.masked.documents.get("skeleton", 0) for source in manifest.sources) > 50
    assert sum(source.masked.documents.get("trajectory", 0) for source in manifest.sources) > 30


def test_near_duplicates_follow_and_nothing_else_is_lost(mixed, bench_at, corpus) -> None:
    """Without the filter only what can follow neither side goes, and its example names what it is like."""
    bench = mixed(phases=())
    manifest = bench.shards()
    records = {record["id"]: split for split, side in sides(bench).items() for record in side}
    plain = bench_at("plain")
    plain.keys |= {**bench.keys, "val_apart": False}
    plain.shards()
    before = {record["id"]: split for split, side in sides(plain).items() for record in side}
    assert records.keys() <= before.keys()
    lost = before.keys() - records.keys()
    assert 0 < len(lost) <= sum(source.dropped.get("near_other_split", 0) for source in manifest.sources)
    assert sum(records[one] != before[one] for one in records) > 20
    shown = [one.text for source in manifest.sources for one in source.examples.get("near_other_split", [])]
    assert shown
    for text in shown:
        similarity, record, path = re.match(r"\[(\d\.\d\d), record (\d+) of (.+?)\] ", text).groups()
        assert 0.65 < float(similarity) <= 1
        (there,) = [file for file in corpus.rglob("*.*") if str(file).endswith(path.lstrip("…"))]
        lines = there.read_text().splitlines()
        assert int(record) < len(lines)


def test_a_dropped_example_names_the_document_that_it_is_like(bench_at, tmp_path) -> None:
    rng, folder = random.Random(1), tmp_path / "few"
    folder.mkdir()
    words = [varied(rng) for _ in range(30)]
    lines = [json.dumps({"text": " ".join(text)}) for text in [*words, changed(words[17], rng, 1)]]
    (folder / "records.jsonl").write_text("\n".join(lines))
    bench = bench_at("run")
    bench.folder, bench.keys["filters"] = folder, Filters(near_duplicates=0.8)
    (example,) = bench.shards().sources[0].examples["near_duplicate"]
    assert example.record == 30
    assert re.match(r"\[0\.\d\d, record 17 of \S+records\.jsonl\] ", example.text)


def test_killed_and_gone_on_from_everything_falls_where_it_did(mixed, monkeypatch) -> None:
    whole, bench = mixed("whole"), mixed("stopped")
    whole.shards()
    monkeypatch.setattr(build, "JOURNAL_BYTES", 3000)
    rng, stops = random.Random(2), 0
    while True:
        left = iter(range(rng.randint(20, 90)))
        try:
            bench.shards(stop=lambda left=left: next(left, None) is None)
            break
        except StoppedError:
            stops += 1
    assert stops > 5
    assert bench.digests() == whole.digests()
