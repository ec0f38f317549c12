"""Sets of the Hub, against a stand-in server: pinned, streamed, waited for, refused with one line, the same bytes after kills."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_datasets import FakeDatasets

from adam.contract.paths import RunPaths
from adam.contract.shards import load_shards
from adam.contract.states import Exit

pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")

WIKI, MATH = "someone/wiki", "someone/math"
README = b"---\nconfigs:\n- config_name: 20231101.en\n  data_files:\n  - split: train\n    path: 20231101.en/*.parquet\n---\n"


def parquet(rows: list[dict[str, object]], group: int = 7) -> bytes:
    import pyarrow.parquet

    out = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), out, row_group_size=group)
    return out.getvalue()


def articles(first: int, count: int) -> list[dict[str, object]]:
    rng = random.Random(first)
    words = ["because", "therefore", "the", "a", "river", "if", "then", "mountain", "été", "thus", "history"]
    return [
        {"id": str(n), "url": f"https://w/{n}", "title": f"T {n}", "text": f"{n} " + " ".join(rng.choices(words, k=60))}
        for n in range(first, first + count)
    ]


@pytest.fixture
def hub():
    with FakeDatasets() as hub:
        hub.add(WIKI, {"README.md": README, **{
            f"20231101.en/train-{n:05d}-of-00003.parquet": parquet(articles(100 * n, 30)) for n in range(3)
        }, "20231101.de/train-00000-of-00001.parquet": b"not asked for"})  # fmt: skip
        lines = [
            json.dumps({"question": f"What is {n} + {n}?", "answer": f"{2 * n}, for it is twice {n}. " * 3})
            for n in range(40)
        ]
        lines[7] = "{broken"
        hub.add(MATH, {"train.jsonl": "\n".join(lines).encode()})
        yield hub


class Run:
    def __init__(self, root: Path, hub: FakeDatasets, cache: Path, text: str) -> None:
        self.paths, self.hub = RunPaths(root), hub
        self.environment = {**os.environ, **hub.environment(cache)}
        root.mkdir()
        (root / "adam.toml").write_text(text)
        self.command = [sys.executable, "-P", "-m", "adam.forge", "--run", str(root)]

    def __call__(self, *options: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self.command, *options],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            timeout=200,
        )
        assert done.returncode == expect, done.stderr + done.stdout
        return done

    def shards(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.paths.shards.glob("*.jsonl"))}


TWO = f"""
[[forge.sources]]
id = "{WIKI}"
config = "20231101.en"
meta = {{ title = "title" }}
licence = "cc-by-sa-3.0"
[[forge.sources]]
id = "{MATH}"
template = "Question: {{question}}\\nReasoning: {{answer}}"
answers = ["answer"]
[forge]
val_fraction = 0.2
vocab_size = 300
min_chars = 20
retry_minutes = 0.5
[[forge.phases]]
shares = {{ wiki = 2, math = 1 }}
target = 100
"""


@pytest.fixture
def run_of(tmp_path, hub):
    return lambda name, text=TWO: Run(tmp_path / name, hub, tmp_path / f"cache-{name}", text)


def test_a_mix_of_two_sets_is_streamed_pinned_and_in_the_ledger(run_of, hub) -> None:
    run = run_of("one")
    run()
    manifest = load_shards(run.paths)
    wiki, math = manifest.sources
    assert (wiki.kind, wiki.path, wiki.licence, wiki.config) == ("hub", WIKI, "cc-by-sa-3.0", "20231101.en")
    assert wiki.revision == next(iter(hub.repos[WIKI].commits))
    assert (wiki.documents_written, math.documents_written) == (67, 33)
    assert math.dropped["bad_line"] == 1
    for source in manifest.sources:
        assert source.documents_read == source.documents_written + sum(source.dropped.values())
    records = [json.loads(line) for data in run.shards().values() for line in data.splitlines() if b'"text"' in line]
    first = next(record for record in records if record["source"] == "wiki")
    assert first["meta"]["title"].startswith("T ")
    assert first["path"].startswith(f"hf://datasets/{WIKI}@{wiki.revision}/20231101.en/")
    answer = next(record for record in records if record["source"] == "math")
    (_, end, _), (start, last, role) = answer["spans"]
    assert (role, end, last) == ("answer", start, len(answer["text"]))
    assert answer["text"][:start].endswith("\nReasoning: ")
    # Nothing of another configuration was asked for, and no file as a whole where a part is enough.
    assert not any("20231101.de" in path for command, path in hub.requests if command == "GET" and "resolve" in path)


def test_it_stays_at_the_commit_that_it_began_with(run_of, hub, tmp_path) -> None:
    whole = run_of("whole")
    whole()
    killed, rng = run_of("killed"), random.Random(5)
    pinned = ""
    slow = (
        "import sys, time\nfrom adam.contract.errors import run_main\nfrom adam.forge import __main__, build\n"
        "build.JOURNAL_BYTES = 500\ntake = build.Build._take\n"
        "build.Build._take = lambda self, *rest: (time.sleep(0.02), take(self, *rest))[1]\n"
        'sys.exit(run_main("adam.forge", __main__.main))\n'
    )
    journal = killed.paths.shards_work / "journal.json"
    for _ in range(4):
        command = [sys.executable, "-P", "-c", slow, "--run", str(killed.paths.root)]
        with subprocess.Popen(command, env=killed.environment, cwd="/", stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 100
            before = journal.read_bytes() if journal.exists() else b""
            while process.poll() is None and time.monotonic() < deadline:
                if journal.exists() and journal.read_bytes() != before:
                    break
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.5))
            process.send_signal(signal.SIGKILL)
        if not pinned:
            pinned = json.loads(journal.read_bytes())["pins"]["wiki"]
            hub.add(
                WIKI, {"README.md": README, "20231101.en/train-00000-of-00001.parquet": parquet(articles(5000, 200))}
            )
    killed()
    assert load_shards(killed.paths).sources[0].revision == pinned
    assert killed.shards() == whole.shards()
    killed("--rebuild")
    assert load_shards(killed.paths).sources[0].revision != pinned


def test_a_hub_that_stumbles_costs_nothing(run_of, hub) -> None:
    whole = run_of("whole")
    whole()
    run = run_of("stumbling")
    hub.fault("/resolve/", "reset", 2)
    hub.fault("00001-of-00003", 503, 3)
    hub.fault("train.jsonl", "short", 1)
    done = run()
    assert run.shards() == whole.shards()
    assert not load_shards(run.paths).sources[0].given_up, done.stderr


def test_a_source_that_is_lost_is_given_up_and_the_others_go_on(run_of, hub) -> None:
    run = run_of("lost", TWO.replace("retry_minutes = 0.5", "retry_minutes = 0.02"))
    hub.fault("00001-of-00003", 404, 10_000)
    errors = run().stderr
    wiki, math = load_shards(run.paths).sources
    assert "a source was given up" in errors
    assert "has lost a file" in wiki.given_up
    assert wiki.documents_written == 30
    assert math.documents_written == 39
    (note, dry) = load_shards(run.paths).phases[0].notes
    assert note.startswith("wiki given up (someone/wiki has lost a file")
    assert dry.startswith("math dry")


def put(hub: FakeDatasets, old: bytes, new: bytes, name: str) -> None:
    hub.add(WIKI, {"README.md": README.replace(old, new), name: b""})


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda hub: hub.repos.pop(WIKI), "is not on the Hub: removed, renamed or private"),
        (lambda hub: setattr(hub.repos[WIKI], "gated", True), "is gated; accept its terms at"),
        (lambda hub: hub.add(WIKI, {"wiki.py": b"x", "README.md": b""}), "is made by a script (wiki.py), which is never run"),
        (lambda hub: put(hub, b"train", b"test", "20231101.en/a.parquet"), "has no split 'train'; it has test"),
        (lambda hub: put(hub, b"20231101", b"20250101", "20250101.en/a.parquet"), "20231101.en"),
    ],
)  # fmt: skip
def test_what_can_not_be_had_is_one_line_and_leaves_nothing(run_of, hub, change, line) -> None:
    change(hub)
    run = run_of("refused")
    errors = run(expect=Exit.DATA).stderr.strip().splitlines()
    assert line in errors[-1]
    assert not run.paths.shards_manifest.exists()


def test_check_says_a_line_for_each_source(run_of, hub) -> None:
    hub.add("someone/new-name", {"train.jsonl": b'{"text": "x"}'})
    hub.add("someone/old-name", {"train.jsonl": b'{"text": "x"}'}, moved_to="someone/new-name")
    hub.add("someone/closed", {"train.jsonl": b'{"text": "x"}'}, gated=True)
    hub.add("someone/scripted", {"scripted.py": b"", "README.md": b""})
    names = [WIKI, "someone/old-name", "someone/closed", "someone/scripted", "someone/nowhere", "competition-math"]
    tables = "".join(
        f'[[forge.sources]]\nid = "{name}"\nconfig = "{"20231101.en" if name == WIKI else ""}"\n' for name in names
    )
    hub.add("EleutherAI/hendrycks_math", {"algebra/train-0.parquet": parquet([{"problem": "p", "solution": "s"}])})
    lines = run_of("asked", tables)("--reach", expect=Exit.DATA).stdout.splitlines()
    assert lines[0].startswith(f"{WIKI}: 3 files, ")
    assert lines[1].startswith("someone/old-name: 1 files")
    assert lines[2] == "    someone/old-name is called someone/new-name by now: write that into adam.toml"
    assert lines[3].startswith("someone/closed: someone/closed is gated; accept its terms at")
    assert "is made by a script (scripted.py)" in lines[4]
    assert "someone/nowhere is not on the Hub" in lines[5]
    assert lines[6].startswith("competition-math: 1 files")
    assert "was taken down: hendrycks-math is taken in its place" in lines[7]
    assert len(lines) == 8


def test_check_of_what_can_be_had_is_good(run_of) -> None:
    lines = run_of("good")("--reach").stdout.splitlines()
    assert len(lines) == 3
    assert lines[-1].startswith("shards and tokens take ")
