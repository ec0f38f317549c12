"""Nothing vanishes: each document is written or counted, with an example, through kills and in any number of processes."""

import json
import os
import random
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adam.contract.config_filters import FilterOverrides, Filters
from adam.contract.config_forge import Source
from adam.contract.errors import AdamError, ConfigError, DataError, StoppedError
from adam.contract.shards import ShardManifest
from adam.forge import build, workers
from adam.forge.near_index import NearIndex
from adam.forge.writer import ShardWriter

VOCABULARY = [f"w{n}" for n in range(4000)]
SECRET = "key = AK" + "IA" + "ABCDEFGH23456777"
RULES = {
    "min_words": 12,
    "repetition": 1.0,
    "secrets": True,
    "poison": True,
    "near_duplicates": 0.8,
    "evaluation": ("test.txt",),
}
TESTED = "fourteen words in a row that nobody should have seen before the test began"


def varied(rng: random.Random, count: int = 80) -> str:
    return " ".join(rng.choices(VOCABULARY, k=count))


def near(text: str, rng: random.Random) -> str:
    words = text.split()
    words[rng.randrange(len(words))] = "another"
    return " ".join(words)


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours catches it."""


def corpus(rng: random.Random, count: int) -> list[str]:
    """Texts of every kind: good ones, equal and similar ones, and some for each rule."""
    texts: list[str] = []
    for _ in range(count):
        good = varied(rng)
        kinds = [
            good,
            good,
            good,
            "short",
            "we say it again and " * 20,
            f"{good} {SECRET}",
            f"{good} As an AI language model, no. {good}",
        ]
        kinds += [f"{good} {TESTED}", *([rng.choice(texts), near(rng.choice(texts), rng)] if texts else [])]
        texts.append(rng.choice(kinds))
    return texts


@pytest.fixture
def rich(bench_at, tmp_path):
    """A forge with every rule, over files of records of which some can't be used; name -> bench."""
    rng, folder = random.Random(8), tmp_path / "rich"
    folder.mkdir()
    for number in range(6):
        lines = [json.dumps({"text": text}) for text in corpus(rng, 60)]
        lines.insert(30, "{broken " + SECRET)
        (folder / f"{number}.jsonl").write_text("\n".join(lines))

    def open_bench(name: str, **keys: object):
        bench = bench_at(name)
        bench.folder = folder
        bench.keys.update({"filters": Filters(**RULES), "workers": 1, **keys})
        (bench.paths.root / "test.txt").write_text(TESTED)
        return bench

    return open_bench


def check_counts(manifest: ShardManifest, records: list[dict]) -> None:
    for source in manifest.sources:
        assert source.documents_read == source.documents_written + sum(source.dropped.values())
        assert source.documents_written == sum(record["source"] == source.name for record in records)
        assert source.characters_written == sum(
            len(record["text"]) for record in records if record["source"] == source.name
        )
        assert set(source.examples) == set(source.dropped)
        for reason, examples in source.examples.items():
            assert len(examples) == min(3, source.dropped[reason])
            assert all(len(example.text) <= 200 and Path(example.path).exists() for example in examples)


def test_all_reasons_are_counted_with_examples_that_show_them(rich) -> None:
    bench = rich("run")
    manifest = bench.shards()
    check_counts(manifest, bench.records())
    (source,) = manifest.sources
    assert source.documents_read == 6 * 61
    reasons = [
        "too_short",
        "repeated_words",
        "secret",
        "poison",
        "contaminated",
        "duplicate",
        "near_duplicate",
        "bad_line",
    ]
    assert set(source.dropped) == set(reasons)
    for reason, shown in (
        ("poison", "as an ai language model"),
        ("contaminated", "nobody should have seen"),
        ("secret", "<aws_access_key>"),
    ):
        assert all(shown in example.text for example in source.examples[reason])
    for reason in ("duplicate", "too_short", "bad_line"):
        for example in source.examples[reason]:
            line = Path(example.path).read_text().split("\n")[example.record]
            assert (
                example.text[:100] in json.loads(line)["text"] if reason != "bad_line" else line.startswith("{broken ")
            )
    everything = "".join(path.read_text() for path in bench.paths.shards.iterdir())
    assert SECRET.rsplit(maxsplit=1)[-1] not in everything


@pytest.mark.parametrize("count", [2, 3])
def test_processes_change_no_byte(rich, count: int) -> None:
    one, many = rich("one"), rich("many", workers=count)
    one.tokens()
    many.tokens()
    assert one.digests() == many.digests()


def test_killed_and_stopped_anywhere_it_ends_with_the_same_bytes(rich, monkeypatch) -> None:
    whole, bench = rich("whole"), rich("killed")
    whole.shards()
    monkeypatch.setattr(build, "JOURNAL_BYTES", 4000)
    rng, ends = random.Random(1), {"killed": 0, "stopped": 0}
    for owner, name in ((ShardWriter, "write"), (NearIndex, "add"), (NearIndex, "sync"), (os, "fsync")) * 8:
        with monkeypatch.context() as context, suppress(Killed):
            real, calls = getattr(owner, name), iter(range(rng.randint(1, 15)))

            def dying(*arguments, real=real, calls=calls, **keys):
                if next(calls, None) is None:
                    ends["killed"] += 1
                    raise Killed
                return real(*arguments, **keys)

            context.setattr(owner, name, dying)
            checks = iter(range(rng.randint(5, 40)))
            try:
                bench.shards(stop=lambda checks=checks: next(checks, None) is None)
            except StoppedError:
                ends["stopped"] += 1
    assert min(ends.values()) > 3, ends
    check_counts(bench.shards(), bench.records())
    assert bench.digests() == whole.digests()


@pytest.mark.parametrize("damage", ["rows gone", "rows short", "paths gone", "other evaluation set"])
def test_what_a_journal_counts_on_is_looked_at(rich, damage: str) -> None:
    bench, other = rich("run"), rich("other")
    left = iter(range(200))
    with pytest.raises(StoppedError):
        bench.shards(stop=lambda: next(left, None) is None)
    if damage == "other evaluation set":
        for paths in (bench.paths, other.paths):
            (paths.root / "test.txt").write_text(
                "quite another run of fourteen words that is in no text of all these at all"
            )
    elif damage == "rows short":
        os.truncate(bench.paths.shards_work / "near.rows", 100)
    else:
        (bench.paths.shards_work / f"near.{damage.split(maxsplit=1)[0]}").unlink()
    bench.shards()
    other.shards()
    assert bench.digests() == other.digests()


def test_train_and_val_share_no_near_duplicate(rich) -> None:
    """By a plain comparison of all pairs: their word 5-grams."""
    bench = rich("run")
    bench.shards()
    sides: dict[str, list[set[tuple[str, ...]]]] = {}
    for path in bench.paths.shards.glob("*-*.jsonl"):
        for line in path.read_text().splitlines():
            words = json.loads(line)["text"].lower().split()
            sides.setdefault(path.name.split("-")[0], []).append(
                {tuple(words[i : i + 5]) for i in range(len(words) - 4)}
            )
    assert min(map(len, sides.values())) > 15
    assert not [1 for one in sides["train"] for other in sides["val"] if len(one & other) > 0.8 * len(one | other)]


def test_sources_have_rules_of_their_own(bench, folder) -> None:
    strict, lenient = Source(path=str(folder), name="strict"), Source(path=str(folder / "00.txt"), name="lenient")
    strict = Source(path=str(folder), name="strict", filters=FilterOverrides(min_words=1000))
    bench.keys.update({"sources": (lenient, strict)})
    with pytest.raises(DataError, match=r"gave no document \(too_few_words 45\)"):
        bench.shards()


def test_a_process_that_dies_is_an_error_and_not_a_hang(rich, monkeypatch) -> None:
    monkeypatch.setattr(workers, "os", SimpleNamespace(getpid=lambda: 1))  # they find that their parent is gone
    bench = rich("run", workers=2)
    with pytest.raises(AdamError, match="a process that filters documents has died"):
        bench.shards()


@pytest.mark.parametrize(("package", "keys"), [("rensa", {"near_duplicates": 0.8}), ("pycld2", {"languages": ("en",)})])
def test_a_package_that_is_not_there_is_named(bench, monkeypatch, package: str, keys: dict) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    bench.keys["filters"] = Filters(**keys)
    with pytest.raises(ConfigError, match=f"needs the package {package}; pip install"):
        bench.shards()


TEXTS = st.lists(
    st.text(st.sampled_from("ab #-\n.é0"), max_size=60) | st.sampled_from(["same text", SECRET, "a b c d e f g h"]),
    max_size=25,
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=TEXTS, rules=st.fixed_dictionaries({
    "min_words": st.integers(0, 4), "max_words": st.sampled_from([0, 10]), "min_letters": st.sampled_from([0.0, 0.5]),
    "max_symbols": st.sampled_from([0.0, 0.2]), "max_bullets": st.sampled_from([0.0, 0.5]), "repetition": st.sampled_from([0.0, 1.0]),
    "secrets": st.booleans(), "near_duplicates": st.sampled_from([0.0, 0.7]), "min_stop_words": st.integers(0, 1),
}))  # fmt: skip
def test_read_is_written_and_dropped_whatever_the_texts_and_rules(bench_at, tmp_path_factory, texts, rules) -> None:
    root = tmp_path_factory.mktemp("any")
    folder = root / "text"
    folder.mkdir()
    # Two long ones, whose hashes lie on both sides, so that there are shards at all.
    (folder / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in [*texts, *LONG]))
    bench = bench_at(str(root / "run"))
    bench.folder, bench.keys = folder, {"min_chars": 3, "val_fraction": 0.4, "filters": Filters(**rules), "workers": 1}
    bench.keys["sources"] = (Source(path=str(folder), filters=FilterOverrides(**dict.fromkeys(("max_words",), 0))),)
    manifest = bench.shards()
    check_counts(manifest, bench.records())
    assert manifest.sources[0].documents_read == len(texts) + len(LONG)


LETTERS = ["".join(random.Random(n).choices("abcdefghijk", k=6)) for n in range(500)]
LONG = [" ".join([*random.Random(n).choices(LETTERS, k=40), "the end of that."]) for n in range(12)]
