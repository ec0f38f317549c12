"""Masking in a whole forge: shares, counts and examples, the way back from the shards, and the same bytes after any end."""

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from spacy_models import NAMES, ruler_model, sentence

from adam.contract.config_forge import Forge, Source
from adam.contract.config_skeletons import Skeletons
from adam.contract.errors import ConfigError, StoppedError
from adam.contract.schema import load
from adam.contract.shards import load_shards
from adam.contract.states import Exit
from adam.forge import build, skeletons, transforms
from adam.forge.catalog import check_sources
from adam.forge.documents import Document, ShardRecord, Span
from adam.forge.journal import Journal
from adam.forge.marks import mark_spans, marks
from adam.forge.masking import Entity, form_of, restore
from adam.forge.skeletons import Masking

pytest.importorskip("spacy")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

PEOPLE, PLACES = NAMES["PERSON"], NAMES["GPE"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return ruler_model(tmp_path_factory.mktemp("models") / "ruler")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Forty letters, twenty programs that name people too, and ten letters that name nobody."""
    folder = tmp_path / "text"
    folder.mkdir()
    for n in range(40):
        person, place = PEOPLE[n % 3], PLACES[n % 2]
        text = f"Letter {n}. {sentence(person, place)} A <PERSON> and <PERSON_1> of {place}. {person}'s reply."
        (folder / f"letter{n:02d}.txt").write_text(text)
    for n in range(20):
        (folder / f"code{n:02d}.py").write_text(f"# {n}: {sentence(PEOPLE[0], PLACES[0])}\nprint('Paris')\n")
    lines = [
        json.dumps({"text": f"Letter {n} names nobody at all and nothing else, which is the point of it."})
        for n in range(10)
    ]
    (folder / "nobody.jsonl").write_text("\n".join(lines))
    return folder


def masked(bench, model: Path, **keys: object):
    """The bench's configuration, with masking."""
    asked = {"enabled": True, "model": str(model), "processes": 1, **keys}
    bench.keys["skeletons"] = Skeletons(**asked)
    return bench


def read(bench) -> list[ShardRecord]:
    return [msgspec.convert(record, ShardRecord) for record in bench.records()]


def test_what_was_read_stands_behind_each_record_and_every_count_is_right(bench, bench_at, model) -> None:
    manifest = masked(bench, model).shards()
    plain = bench_at("plain")
    plain.shards()
    before = {record.id: record.text for record in read(plain)}
    found, forms = read(bench), Counter()
    known = marks(bench.config.forge.skeletons)
    for record in found:
        assert restore(record.text, record.masks) == before[record.id]
        if record.path.endswith(".py"):
            assert not record.masks
            continue
        wanted = form_of(bytes.fromhex(record.id), bench.config.forge.skeletons)
        nobody = "nobody" in record.path
        forms["nothing_found" if nobody and wanted != "plain" else wanted] += 1
        assert bool(record.masks) == (wanted != "plain" and not nobody)
        shown = [record.text[start:end] for start, end in mark_spans(record.text, record.masks, known)]
        if wanted == "skeleton" and record.masks:
            assert shown == ["<PERSON_1>", "<GPE_1>", "<GPE_1>", "<PERSON_1>"]
            assert "A <PERSON> and <PERSON_1> of <GPE_1>." in record.text
        if wanted == "trajectory" and record.masks:
            assert shown == ["<THOUGHT>", "</THOUGHT>", "<SEARCH>", "</SEARCH>", "<RESULT>", "</RESULT>"]
    (source,) = manifest.sources
    assert source.masked.documents == dict(forms)
    assert min(forms[form] for form in ("skeleton", "trajectory", "plain", "nothing_found")) > 0
    assert source.masked.entities == {"PERSON": 2 * forms["skeleton"], "GPE": 2 * forms["skeleton"]}
    assert manifest.ner_model == "en_names 1.0"
    examples = source.masked.examples
    assert [len(examples[form]) for form in ("skeleton", "trajectory")] == [3, 3]
    for example in examples["skeleton"]:
        assert "went to <GPE_1>" in example.after
        assert "went to <" not in example.before


def test_splits_and_ids_are_those_without_masks_and_off_changes_no_byte(bench, bench_at, model) -> None:
    masked(bench, model).shards()
    off, plain = bench_at("off"), bench_at("plain")
    masked(off, model, enabled=False).shards()
    plain.shards()
    assert [record.id for record in read(bench)] == [record.id for record in read(plain)]
    assert [record["text"] for record in bench.records()] != [record["text"] for record in plain.records()]
    shards = {name: digest for name, digest in plain.digests().items() if name.endswith(".jsonl")}
    assert {name: digest for name, digest in off.digests().items() if name in shards} == shards


def test_stopped_anywhere_and_with_other_processes_it_ends_with_the_same_bytes(bench, bench_at, model) -> None:
    whole = masked(bench_at("whole"), model, processes=1)
    whole.shards()
    for processes, stop_after in ((2, 9), (1, 30), (3, 41)):
        left = iter(range(stop_after))
        with pytest.raises(StoppedError):
            masked(bench, model, processes=processes).shards(stop=lambda left=left: next(left, None) is None)
    masked(bench, model, processes=2).shards()
    assert bench.digests() == whole.digests()


def test_another_version_of_the_model_begins_again(bench, bench_at, model, tmp_path) -> None:
    with pytest.raises(StoppedError):
        left = iter(range(30))
        masked(bench, model).shards(stop=lambda: next(left, None) is None)
    meta = json.loads((model / "meta.json").read_text())
    other = ruler_model(tmp_path / "other")
    (other / "meta.json").write_text(json.dumps(meta | {"version": "2.0"}))
    other.rename(tmp_path / "kept")
    model.rename(tmp_path / "old")
    (tmp_path / "kept").rename(model)
    try:
        assert masked(bench, model).shards().ner_model == "en_names 2.0"
        whole = masked(bench_at("whole"), model)
        whole.shards()
        assert bench.digests() == whole.digests()
    finally:
        model.rename(tmp_path / "other")
        (tmp_path / "old").rename(model)


class Found:
    """In place of the processes: every "Paris" of a text."""

    def __init__(self, *_: object) -> None:
        self.texts: list[str] = []

    def ask(self, texts):
        self.texts += texts
        return lambda: [
            "ValueError: no" if "fail" in t else [Entity(t.index("Paris"), t.index("Paris") + 5, "GPE")] for t in texts
        ]

    def close(self) -> None:
        pass


@pytest.fixture
def masking(monkeypatch) -> Masking:
    monkeypatch.setattr(skeletons, "Recogniser", Found)
    sources = {"named": Source(path="x"), "left": Source(path="y", masked=False)}
    return Masking(Skeletons(enabled=True, share=1.0, search_share=0.0), sources, None, lambda: None)


def test_code_and_sources_that_say_so_are_left_and_not_even_looked_at(masking) -> None:
    documents = [
        Document("Paris one", source="named"),
        Document("Paris two", source="named", kind="code"),
        Document("Paris three", source="left"),
    ]
    done = masking.begin(documents)()
    assert [(document.text, document.form) for document in done] == [
        ("<GPE_1> one", "skeleton"), ("Paris two", ""), ("Paris three", ""),
    ]  # fmt: skip
    assert masking._recogniser.texts == ["Paris one"]
    assert [document.text for document in documents] == ["Paris one", "Paris two", "Paris three"]


def test_a_document_that_the_model_fails_on_stays_and_is_counted(masking) -> None:
    done = masking.begin([Document("fail in Paris", source="named"), Document("to Paris", source="named")])()
    assert [(document.text, document.form) for document in done] == [
        ("fail in Paris", "failed"),
        ("to <GPE_1>", "skeleton"),
    ]


def test_prompts_and_answers_keep_their_places(masking) -> None:
    text = "Where is Paris? In France."
    spans = (Span(0, 15, "prompt"), Span(16, len(text), "answer"))
    (done,) = masking.begin([Document(text, source="named", spans=spans)])()
    assert [done.text[span.start : span.end] for span in done.spans] == ["Where is <GPE_1>?", "In France."]


def test_a_share_of_nothing_needs_no_model(tmp_path) -> None:
    nothing = Forge(skeletons=Skeletons(enabled=True, model="none", share=0, search_share=0))
    assert skeletons.masking_model(nothing, tmp_path) is None
    with pytest.raises(ConfigError, match="does not know PER"):
        skeletons.masking_model(
            Forge(skeletons=Skeletons(enabled=True, model=str(ruler_model(tmp_path / "m")), labels=("PER",))), tmp_path
        )


def test_the_check_before_a_run_asks_for_the_model(bench, model) -> None:
    asked = masked(bench, model).config.forge
    assert (True, "entities are found by en_names 1.0") in list(check_sources(asked, bench.paths.root))
    missing = masked(bench, Path("en_core_web_xs")).config.forge
    ((good, line),) = [found for found in check_sources(missing, bench.paths.root) if not found[0]]
    assert not good
    assert line.endswith("-m spacy download en_core_web_xs")


def test_without_its_model_the_forge_stops_at_once_and_says_what_to_do(bench) -> None:
    lines = [
        f'[[forge.sources]]\npath = "{bench.folder}"',
        '[forge.skeletons]\nenabled = true\nmodel = "en_core_web_xs"',
    ]
    bench.paths.config.write_text("\n".join(lines))
    command = [sys.executable, "-P", "-m", "adam.forge", "--run", str(bench.paths.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", timeout=100)
    assert done.returncode == Exit.CONFIG
    assert done.stderr.splitlines()[-1].endswith(f"{sys.executable} -m spacy download en_core_web_xs")
    assert not bench.paths.shards.exists()
    assert load_shards(bench.paths) is None


def test_killed_at_every_write_it_ends_with_the_same_bytes(bench, bench_at, monkeypatch) -> None:
    """Counts and examples too. What finds the entities is no part of it: it holds nothing."""

    class Kill(BaseException):
        pass

    class Names(Found):
        def ask(self, texts):
            return lambda: [
                sorted(Entity(t.index(n), t.index(n) + len(n), "PERSON") for n in PEOPLE if n in t) for t in texts
            ]

    monkeypatch.setattr(skeletons, "Recogniser", Names)
    monkeypatch.setattr(build, "JOURNAL_BYTES", 500)
    asked = Skeletons(enabled=True)
    for module in (skeletons, transforms):
        monkeypatch.setattr(module, "masking_model", lambda *_: skeletons.Model(Path(), "m 1", False))
    whole = bench_at("whole")
    whole.keys["skeletons"] = bench.keys["skeletons"] = asked
    whole.shards()
    real, kills = build.ShardWriter.write, 0
    for call in range(2, 60, 3):
        left = iter(range(call % 13))
        with monkeypatch.context() as context:

            def dying(self, *rest, left=left):
                if next(left, None) is None:
                    raise Kill
                real(self, *rest)

            context.setattr(build.ShardWriter, "write", dying)
            try:
                bench.shards()
                break
            except Kill:
                kills += 1
    bench.shards()
    assert kills > 4
    assert bench.digests() == whole.digests()


# The forge with a journal every 500 bytes, and slow enough to be met in the middle.
SLOW = """
import sys, time
from adam.contract.errors import run_main
from adam.forge import __main__, build
build.JOURNAL_BYTES = 500
take = build.Build._take
build.Build._take = lambda self, *rest: (time.sleep(0.02), take(self, *rest))[1]
sys.exit(run_main("adam.forge", __main__.main))
"""


def journalled(bench) -> int:
    """Bytes of open shards that the journal knows."""
    journal = load(bench.paths.shards_work / "journal.json", Journal)
    return sum(shard.size for shard in journal.shards.values()) if journal else 0


def shards_of(bench) -> dict[str, str]:
    return {name: digest for name, digest in bench.digests().items() if name.endswith(".jsonl")}


def test_killed_with_its_processes_it_goes_on_to_the_same_bytes(bench, bench_at, model) -> None:
    whole = masked(bench_at("whole"), model)
    whole.shards()
    lines = [f'[[forge.sources]]\npath = "{bench.folder}"\n[forge]\nval_fraction = 0.2\nvocab_size = 300']
    lines += [f'[forge.skeletons]\nenabled = true\nmodel = "{model}"\nprocesses = 2']
    bench.paths.config.write_text("\n".join(lines))
    command = [sys.executable, "-P", "-c", SLOW, "--run", str(bench.paths.root)]
    for _ in range(2):
        before, deadline = journalled(bench), time.monotonic() + 100
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd="/") as process:
            while journalled(bench) == before and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.kill()
        assert process.returncode == -signal.SIGKILL
        assert journalled(bench) > before
    masked(bench, model).shards()
    assert shards_of(bench) == shards_of(whole)
