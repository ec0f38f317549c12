"""Evaluation sets by their name on the Hub: pinned, fetched, in the ledger, and nothing of theirs in the shards."""

import gzip
import io
import json
import random
import time

import pytest
from fake_datasets import FakeDatasets
from forge_run import ForgeRun

from adam.contract.config_file import parse_config
from adam.contract.config_forge import forge_digest
from adam.contract.errors import ConfigError
from adam.contract.shards import load_shards
from adam.contract.states import Exit
from adam.forge.contamination import Evaluation

pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")

GSM = "openai/gsm8k"
README = (
    b"---\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: main/train-*\n"
    b"  - split: test\n    path: main/test-*\n---\n"
)
WORDS = [f"{one}{other}" for one in ("river", "stone", "cloud") for other in ("bed", "side", "way", "clips", "price")]


def question(number: int) -> str:
    return f"Item {number}: " + " ".join(random.Random(number).choices(WORDS, k=25))


def parquet(numbers: range) -> bytes:
    import pyarrow.parquet

    out = io.BytesIO()
    rows = [{"question": question(number), "answer": f"it is {number}"} for number in numbers]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


@pytest.fixture
def hub():
    with FakeDatasets() as hub:
        hub.add(GSM, gsm8k(range(20)))
        yield hub


def gsm8k(numbers: range) -> dict[str, bytes]:
    return {
        "README.md": README,
        "main/train-00000-of-00001.parquet": parquet(range(1000, 1020)),
        "main/test-00000-of-00001.parquet": parquet(numbers),
    }


CONFIG = f"""
[forge]
vocab_size = 300
val_fraction = 0.2
retry_minutes = 0.02
[[forge.sources]]
path = "text"
[forge.filters]
evaluation = ["own.jsonl"]
evaluation_sets = [{{ id = "{GSM}" }}]
"""


@pytest.fixture
def run(tmp_path, hub) -> ForgeRun:
    """Documents that quote items of the test split (0 to 4), of train (1000 to 1004), of the file (500, 501), and others."""
    run = ForgeRun(tmp_path / "run", CONFIG, hub)
    (run.paths.root / "text").mkdir()
    quoted = [*range(5), *range(1000, 1005), 500, 501]
    texts = [f"Somebody asks. {question(number)} And answers." for number in quoted]
    texts += [" ".join(random.Random(f"other {number}").choices(WORDS, k=40)) for number in range(1, 41)]
    (run.paths.root / "text" / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    (run.paths.root / "own.jsonl").write_text("\n".join(json.dumps({"q": question(n)}) for n in (500, 501)))
    return run


def test_what_quotes_the_test_split_goes_and_what_quotes_train_stays(run, hub) -> None:
    first = hub.repos[GSM].commits
    run()
    manifest = load_shards(run.paths)
    assert manifest is not None
    (source,) = manifest.sources
    assert source.dropped == {"contaminated": 7}
    shown = [example.text for example in source.examples["contaminated"]]
    assert [text[:90] for text in shown] == [f"[word 2] {question(number)}"[:90] for number in range(3)]
    written = "".join(path.read_text() for path in run.paths.shards.glob("*-*.jsonl"))
    assert all(question(number) in written for number in range(1000, 1005))
    own, fetched = manifest.evaluation
    assert own.startswith("own.jsonl, files-")
    assert fetched == f"{GSM} (main, test), {next(iter(first))}"


def test_a_set_is_pinned_at_the_first_start(run, hub) -> None:
    """The Hub's set changes behind a killed forge: the next one goes on with what was begun with."""
    with (run.paths.root / "text" / "b.jsonl").open("w") as file:
        for number in range(20_000):
            print(
                json.dumps({"text": f"{number} " + " ".join(random.Random(f"more {number}").choices(WORDS, k=12))}),
                file=file,
            )
    forge = run.start()
    while not (run.paths.shards_work / "journal.json").exists():
        assert forge.poll() is None
        time.sleep(0.01)
    forge.kill()
    forge.communicate()
    pinned = next(iter(hub.repos[GSM].commits))
    hub.add(GSM, gsm8k(range(100, 120)))
    assert not run.paths.shards_manifest.exists()
    run()
    manifest = load_shards(run.paths)
    assert manifest.evaluation[1].endswith(pinned)
    assert manifest.sources[0].dropped["contaminated"] == 7


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda hub: hub.repos.pop(GSM), "openai/gsm8k is not on the Hub: removed, renamed or private; correct the name"),
        (lambda hub: setattr(hub.repos[GSM], "gated", True), "openai/gsm8k is gated; accept its terms at"),
        (lambda hub: hub.add(GSM, {"README.md": README.replace(b"split: test", b"split: dev"), **{
            name: data for name, data in gsm8k(range(3)).items() if name != "README.md"}}), "has no split 'test'; it has train, dev"),
        (lambda hub: hub.fault("/api/datasets/", "reset", 1000), "openai/gsm8k can't be reached"),
    ],
)  # fmt: skip
def test_a_set_that_can_not_be_had_is_one_line_and_no_run(run, hub, change, line) -> None:
    change(hub)
    error = run(expect=Exit.DATA).stderr.strip().splitlines()[-1]
    assert line in error
    assert not run.paths.shards_manifest.exists()
    (said,) = [text for text in run("check", expect=Exit.DATA).stdout.splitlines() if GSM in text]
    assert said.startswith(f"{GSM}: ")
    assert line in said


def test_check_fetches_it(run) -> None:
    lines = run("check").stdout.splitlines()
    assert any(line.startswith(f"evaluation set {GSM} (main, test): 1 files, revision ") for line in lines)


def test_a_set_of_no_known_name_is_named(run) -> None:
    run.paths.config.write_text(CONFIG.replace(GSM, "gsm9k"))
    assert "'gsm9k' is no set of the registry" in run(expect=Exit.CONFIG).stderr


def test_settings_are_checked_and_counted() -> None:
    def parsed(line: str):
        return parse_config(f"[forge.filters]\n{line}", "adam.toml").forge

    with pytest.raises(ConfigError, match=r"evaluation_sets\[0\]"):
        parsed('evaluation_sets = [{ split = "test" }]')
    with pytest.raises(ConfigError, match=r"did you mean split"):
        parsed('evaluation_sets = [{ id = "a/b", splits = "test" }]')
    plain, one, other = (
        forge_digest(parsed(line))
        for line in ("", 'evaluation_sets = [{ id = "a/b" }]', 'evaluation_sets = [{ id = "a/b", split = "dev" }]')
    )
    assert len({plain, one, other}) == 3


def test_files_may_be_compressed(tmp_path) -> None:
    path = tmp_path / "items.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps({"q": question(1)}).encode()))
    assert len(Evaluation([path], 13)) == 15
