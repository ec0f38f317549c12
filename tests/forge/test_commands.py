"""`adamctl forge sources`, `check`, `report` and `sample` as people and scripts start them: processes, exit codes, plain lines."""

import json
import random
import re
import socket

import pytest
from fake_datasets import FakeDatasets
from forge_run import ForgeRun

from adam.contract.states import Exit
from adam.forge.registry import shipped

pytest.importorskip("datasets")

GOOD = "someone/good"
ROW = b'{"text": "a row of a set that is there, for whoever asks"}'


@pytest.fixture
def hub():
    with FakeDatasets() as hub:
        hub.add(GOOD, {"train.jsonl": ROW})
        yield hub


@pytest.fixture
def run_of(tmp_path, hub):
    def make(*ids: str, name: str = "run", more: str = "") -> ForgeRun:
        return ForgeRun(tmp_path / name, more + "".join(f'[[forge.sources]]\nid = "{one}"\n' for one in ids), hub)

    return make


def plain(text: str) -> str:
    """Nothing for a terminal in it: no colours, no bar, no line that is written over."""
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", text), text
    return text


def test_sources_lists_every_set_with_licence_access_and_size_and_asks_nobody(run_of, hub) -> None:
    asked = len(hub.requests)
    lines = plain(run_of(GOOD)("sources").stdout).splitlines()
    assert len(hub.requests) == asked
    heads = {line.partition(":")[0]: line for line in lines if not line.startswith("    ")}
    assert heads.keys() >= {entry.name for entry in shipped()}
    for entry in shipped():
        line = heads[entry.name]
        if entry.gone:
            assert entry.gone in line
            assert not entry.successor or f"; {entry.successor} is taken in its place" in line
        else:
            assert (entry.licence or "licence not known") in line
            assert ("gated: accept its terms" in line) == entry.gated
    assert any(re.search(r"[\d.]+ [MGT]B$", line) for line in heads.values())


def test_sources_needs_no_run(tmp_path, run_of) -> None:
    run = run_of(GOOD)
    run.paths.config.unlink()
    assert "wikipedia: wikimedia/wikipedia" in run("sources").stdout


def test_check_of_good_sources_is_a_line_each_and_zero(run_of) -> None:
    lines = plain(run_of(GOOD)("check").stdout).splitlines()
    assert re.fullmatch(r"someone/good: 1 files, 5\d B, revision [0-9a-f]{12}, licence not stated", lines[0])
    assert re.fullmatch(r"shards and tokens take [\d.]+ MB at most", lines[1])
    assert len(lines) == 2


BAD = {
    "gated": (
        "is gated; accept its terms at https://huggingface.co/datasets/someone/gated and give a token (HF_TOKEN)"
    ),
    "removed": "someone/removed is not on the Hub: removed, renamed or private; correct the name; a private or gated one needs a token",
    "scripted": "is made by a script (scripted.py), which is never run; name its files",
    "revision": "someone/revision has no such revision; correct its revision in adam.toml",
    "split": "someone/split has no split 'train'; it has test",
}


def add_bad(hub: FakeDatasets) -> None:
    hub.add("someone/gated", {"train.jsonl": ROW}, gated=True)
    hub.add("someone/scripted", {"scripted.py": b"", "README.md": b""})
    hub.add("someone/revision", {"train.jsonl": ROW})
    hub.add("someone/split", {"test.jsonl": ROW})


@pytest.mark.parametrize("kind", BAD)
def test_what_can_not_be_had_is_one_line_with_what_to_do_and_a_code(run_of, hub, kind) -> None:
    add_bad(hub)
    run = run_of(f"someone/{kind}", GOOD)
    if kind == "revision":
        text = run.paths.config.read_text()
        run.paths.config.write_text(text.replace('revision"\n', f'revision"\nrevision = "{"0" * 40}"\n'))
    done = run("check", expect=Exit.DATA)
    first, second = plain(done.stdout).splitlines()
    assert BAD[kind] in first
    assert second.startswith(f"{GOOD}: 1 files")
    assert "Traceback" not in done.stderr
    error = run(expect=Exit.DATA).stderr
    assert BAD[kind] in plain(error).splitlines()[-1]
    assert "Traceback" not in error


def test_a_renamed_set_is_taken_and_said(run_of, hub) -> None:
    hub.add("someone/new", {"train.jsonl": ROW})
    hub.add("someone/old", {"train.jsonl": ROW}, moved_to="someone/new")
    lines = plain(run_of("someone/old")("check").stdout).splitlines()
    assert lines[0].startswith("someone/old: 1 files")
    assert lines[1] == "    someone/old is called someone/new by now: write that into adam.toml"


def test_a_hub_that_is_away_is_a_line_each(run_of) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{unused.getsockname()[1]}"
    done = run_of(GOOD, "someone/other")("check", expect=Exit.DATA, HF_ENDPOINT=nowhere)
    lines = plain(done.stdout).splitlines()
    assert [line.partition(":")[0] for line in lines] == [GOOD, "someone/other"]
    assert all("can't be reached: " in line and "it is tried again; check the network" in line for line in lines)
    assert "Traceback" not in done.stderr


def test_a_hub_that_is_away_ends_a_run_when_patience_does(run_of, hub) -> None:
    hub.fault("/api/", 503, 10_000)
    error = run_of(GOOD, more="[forge]\nretry_minutes = 0.02\n")(expect=Exit.DATA).stderr
    assert "the Hub fails and is tried again" in error
    assert "can't be reached" in plain(error).splitlines()[-1]


def test_local_sources_are_checked_too(run_of) -> None:
    run = run_of(more='[[forge.sources]]\npath = "nowhere"\n[[forge.sources]]\npath = "here"\n')
    (run.paths.root / "here").mkdir()
    (run.paths.root / "here" / "a.txt").write_text("some text")
    first, second = run("check", expect=Exit.DATA).stdout.splitlines()
    assert first == f"nowhere: no such source: {run.paths.root / 'nowhere'}; correct forge.sources in adam.toml"
    assert second == "here: 1 files, 9 B, licence not stated"


@pytest.fixture
def made(run_of) -> ForgeRun:
    """Made without a terminal, by lines."""
    run = run_of(
        more='[forge]\nvocab_size = 300\nval_fraction = 0.3\n[[forge.sources]]\npath = "here"\nlicence = "own"\n'
    )
    (run.paths.root / "here").mkdir()
    rng = random.Random(1)
    for number in range(30):
        text = " ".join(rng.choices(["sun\x1b[31m", "rain", "wind\r", "snow"], k=60))
        (run.paths.root / "here" / f"{number}.txt").write_text(text)
    (run.paths.root / "here" / "short.txt").write_text("short")
    done = run()
    assert re.match(r"reading sources \([\d.]+ kB\)\n", plain(done.stderr))
    assert "encoding tokens" in done.stderr
    assert "31 documents read, 30 written" in plain(done.stdout)
    return run


def test_report_and_sample_say_what_scripts_can_read(made) -> None:
    page = made.paths.root / "forge-report.html"
    assert plain(made("report").stdout) == f"{page}\n"
    text = page.read_text()
    assert text.startswith("<!doctype html>")
    assert not re.search(r"(?:src|href)=.?https?:", text)  # self-contained
    lines = made("sample", "-n", "5", "--seed", "1", "--json").stdout.splitlines()
    records = [json.loads(line) for line in lines]
    assert len({record["id"] for record in records}) == 5
    assert all(record["source"] == "here" for record in records)
    assert made("sample", "-n", "5", "--seed", "1", "--json").stdout.splitlines() == lines
    (dropped,) = made("sample", "--dropped", "too_short", "--json").stdout.splitlines()
    assert json.loads(dropped) | {"path": ""} == {"source": "here", "reason": "too_short", "path": "", "text": "short"}
    shown = plain(made("sample", "-n", "2").stdout)
    assert "here/" in shown
    assert "\\x1b[31m" in shown


def test_wrong_questions_are_one_line_and_a_code_of_their_own(made) -> None:
    for words, code, line in (
        (("sample", "--source", "there"), Exit.DATA, "there is no source 'there'; the sources are here"),
        (("sample", "--dropped", "poison"), Exit.DATA, "no document was dropped as 'poison'; reasons are too_short"),
        (("sample", "-n", "0"), Exit.USAGE, "-n 0: must be at least 1"),
        (("sample", "-n", "many"), Exit.USAGE, "invalid int value: 'many'"),
        (("report", "--out", "/nowhere/at/all.html"), None, "/nowhere/at"),
    ):
        done = made.start(*words)
        out, errors = done.communicate()
        assert done.returncode == code if code is not None else done.returncode not in (0, 1), (words, errors)
        assert out == ""
        assert line in errors.splitlines()[-1]
        assert "Traceback" not in errors
