"""A source that fails: waited for twice as long each time, then given up and named, while the others go on; its disk is foreseen."""

import json
import random
import re

import pytest
from fake_datasets import FakeDatasets
from forge_files import MAKERS, PACKERS
from forge_run import ForgeRun

from adam.contract.config_forge import Forge, Source
from adam.contract.shards import load_shards
from adam.forge.hub import HubError
from adam.forge.reading import LONGEST_WAIT_S, Patience
from adam.forge.resume import wait_for
from adam.forge.room import disk_needed, text_bytes_expected
from adam.forge.sources import open_sources

AWAY = HubError("a set can't be reached", "wait", lasting=False)
GONE = HubError("a set is gone", "choose another", lasting=True)


def waits(patience: Patience, limit: float) -> list[float]:
    """What is waited for when every try fails at once."""
    now, found = 50.0, []
    while (wait := patience.wait_for(AWAY, now)) is not None:
        found.append(wait)
        now += wait
        assert now < 50 + limit + LONGEST_WAIT_S
    return found


def test_it_waits_twice_as_long_each_time_up_to_a_minute_and_until_the_limit() -> None:
    found = waits(Patience(1800.0), 1800.0)
    assert found[:7] == [1, 2, 4, 8, 16, 32, 60]
    assert set(found[7:-1]) == {60}
    assert sum(found) == pytest.approx(1800, abs=0.2)
    assert waits(Patience(5.0), 5.0) == [1, 2, 2]


def test_what_lasts_is_not_waited_for_and_what_has_given_something_begins_anew() -> None:
    assert Patience(1800.0).wait_for(GONE, 0.0) is None
    assert Patience(0.0).wait_for(AWAY, 0.0) is None
    patience = Patience(100.0)
    assert [patience.wait_for(AWAY, now) for now in (0.0, 1.0, 3.0)] == [1, 2, 4]
    patience.well()
    assert patience.wait_for(AWAY, 90.0) == 1
    assert patience.wait_for(AWAY, 189.0) == 1  # what is left of the limit
    assert patience.wait_for(AWAY, 190.0) is None


def test_waiting_gives_signs_of_life_and_ends_when_somebody_asks() -> None:
    class Ticking:
        ticks = 0

        def tick(self) -> None:
            self.ticks += 1

    progress = Ticking()
    wait_for(1000.0, progress, lambda: progress.ticks >= 3)
    assert progress.ticks == 3


@pytest.fixture
def two(tmp_path):
    """A set of the Hub and a folder; the mix takes of both."""
    pytest.importorskip("datasets")
    with FakeDatasets() as hub:
        rng = random.Random(0)
        lines = [json.dumps({"text": " ".join(rng.choices(["sun", "rain", "wind", "snow"], k=50))}) for _ in range(30)]
        hub.add("someone/weather", {"train.jsonl": "\n".join(lines).encode()})
        run = ForgeRun(
            tmp_path / "run",
            "[forge]\nvocab_size = 300\nval_fraction = 0.3\nval_apart = false\nretry_minutes = 0.05\n"
            '[[forge.sources]]\nid = "someone/weather"\n[[forge.sources]]\npath = "here"\n'
            "[[forge.phases]]\nshares = { weather = 1, here = 1 }\n",
            hub,
        )
        (run.paths.root / "here").mkdir()
        for number in range(30):
            (run.paths.root / "here" / f"{number}.txt").write_text(" ".join(rng.choices(["a", "b", "c"], k=80)))
        yield hub, run


def test_a_source_that_stays_away_is_tried_again_reported_and_the_others_go_on(two) -> None:
    hub, run = two
    hub.fault("train.jsonl", 503, 10_000)
    errors = run().stderr
    assert re.search(r"a source fails and is tried again.* seconds=1\.0", errors), errors
    assert "a source was given up" in errors
    weather, here = load_shards(run.paths).sources
    assert "someone/weather can't be reached" in weather.given_up
    assert (weather.documents_written, here.documents_written) == (0, 30)
    assert "weather given up" in load_shards(run.paths).phases[0].notes[0]


def test_a_source_that_comes_back_in_time_gives_all(two) -> None:
    hub, run = two
    hub.fault("train.jsonl", 503, 8)
    run()
    weather, here = load_shards(run.paths).sources
    assert (weather.given_up, weather.documents_written, here.documents_written) == ("", 30, 30)


def test_a_hub_that_lists_its_files_late_is_waited_for(two) -> None:
    """`datasets` made "correct config" of a card that could not be fetched."""
    hub, run = two
    hub.fault("README.md", 503, 7)
    run()
    assert [source.documents_written for source in load_shards(run.paths).sources] == [30, 30]


@pytest.mark.parametrize(
    ("kind", "packed"),
    [("a.parquet", ""), ("a.arrow", ""), ("a.csv", ""), ("a.jsonl", ""), ("a.jsonl", ".gz"), ("a.jsonl", ".zst")],
)
def test_the_disk_that_is_foreseen_is_enough_and_not_many_times_too_much(bench, tmp_path, kind, packed) -> None:
    """Of English-like text, in files of each kind: what shards and tokens take when they are there."""
    pytest.importorskip("pyarrow")
    rng = random.Random(3)
    known = ["".join(rng.choices("etaoinshrdlucmfwypvbg", k=rng.randint(2, 9))) for _ in range(3000)]
    rows = [{"id": n, "text": " ".join(rng.choices(known, k=400))} for n in range(150)]
    folder = tmp_path / "of-a-kind"
    folder.mkdir()
    made = MAKERS[kind](rows)
    (folder / (kind + packed)).write_bytes(PACKERS[packed](made) if packed else made)
    forge = Forge(sources=(Source(path=str(folder)),), tokenizer="train", vocab_size=1000, val_fraction=0.1)
    bench.keys = {field: getattr(forge, field) for field in ("sources", "vocab_size", "val_fraction")}
    foreseen = disk_needed(forge, text_bytes_expected(forge, open_sources(forge, tmp_path)), 0) - disk_needed(
        forge, 0, 0
    )
    bench.tokens()
    taken = sum(
        path.stat().st_size for path in bench.paths.root.rglob("*") if path.is_file() and path.parent.name != "run"
    )
    assert taken - 200_000 < foreseen < 6 * taken
