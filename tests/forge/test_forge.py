"""The forge as a process: counted, disjoint, resumable to the byte, and quiet the second time."""

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tokenizers import Tokenizer

from adam.contract.lease import read_lease, take_lease
from adam.contract.paths import RunPaths
from adam.contract.shards import SourceFile, load_shards, load_tokens
from adam.contract.shared import Pulse, read_once
from adam.contract.states import Exit, Phase


def forge(run: Path, *options: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(run, *options), capture_output=True, text=True, check=False, cwd="/", timeout=100)
    assert done.returncode == expect, done.stderr
    return done


def command(run: Path, *options: str) -> list[str]:
    return [sys.executable, "-P", "-m", "adam.forge", "--run", str(run), *options]


def write_config(run: Path, text: Path, **forge_keys: object) -> None:
    run.mkdir(parents=True, exist_ok=True)
    keys = {"val_fraction": 0.2, "vocab_size": 400, **forge_keys}
    lines = [f"[[forge.sources]]\npath = {json.dumps(str(text))}\n[forge]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    (run / "adam.toml").write_text("\n".join(lines))


def words(seed: int, count: int) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(["alpha", "beta", "gamma", "delta", "été", "→"]) for _ in range(count))


@pytest.fixture
def text(tmp_path) -> Path:
    folder = tmp_path / "text"
    (folder / "deep").mkdir(parents=True)
    for number in range(60):
        (folder / f"{number:02d}.txt").write_text(f"{number} {words(number, 150)}")
    (folder / "deep" / "same.md").write_text(f"{0} {words(0, 150)}")  # equal to 00.txt
    (folder / "deep" / "short.rst").write_text("too short")
    (folder / "deep" / "crlf.py").write_bytes(b"\xef\xbb\xbfx = 1\r\n" * 30)
    (folder / "records.jsonl").write_text(
        "\n".join(
            [json.dumps({"text": f"record {n} {words(100 + n, 50)}"}) for n in range(20)]
            + ["{not json", json.dumps({"title": "no text"}), json.dumps({"text": "\ud800 lone" * 20})]
        )
    )
    (folder / "list.json").write_text(json.dumps([{"text": f"item {n} {words(200 + n, 50)}"} for n in range(5)]))
    (folder / "bad.json").write_text("{")
    (folder / "binary.txt").write_bytes(b"ab\0cd" * 100)
    (folder / "latin.txt").write_bytes("é".encode("latin-1") * 100)
    (folder / "ignored.bin").write_bytes(b"\0")
    (folder / ".hidden.txt").write_text(words(1, 100))
    (folder / "deep" / "loop").symlink_to("..")
    return folder


@pytest.fixture
def run(tmp_path, text) -> RunPaths:
    write_config(tmp_path / "run", text)
    return RunPaths(tmp_path / "run")


def documents(run: RunPaths, split: str) -> list[dict[str, str]]:
    manifest = load_shards(run)
    assert manifest is not None
    return [
        json.loads(line)
        for file in manifest.files
        if file.split == split
        for line in (run.shards / file.name).read_text().splitlines()
    ]


def digests(run: RunPaths) -> dict[str, str]:
    """Of everything that is made, but for the moment in the manifests."""
    found = {}
    for path in sorted([*run.shards.rglob("*"), *run.tokens.rglob("*")]):
        if path.is_file() and path.name != "manifest.json":
            found[str(path.relative_to(run.root))] = hashlib.sha256(path.read_bytes()).hexdigest()
    for path in (run.shards_manifest, run.tokens_manifest):
        content = json.loads(path.read_text())
        content.pop("stamp")
        content.pop("shards_sha256", None)
        found[str(path.relative_to(run.root))] = json.dumps(content)
    return found


def test_everything_is_counted_and_nothing_vanishes(run: RunPaths) -> None:
    forge(run.root)
    manifest = load_shards(run)
    assert manifest is not None
    (source,) = manifest.sources
    assert source.dropped == {"duplicate": 1, "too_short": 1, "bad_line": 2, "no_text": 1}
    left_out = {"hidden": 1, "link_to_folder": 1, "unknown_ending": 1}
    assert source.files_skipped == {"binary": 1, "not_utf8": 1, "not_json": 1, **left_out}
    assert source.documents_read == source.documents_written + sum(source.dropped.values())
    assert source.documents_written == len(documents(run, "train")) + len(documents(run, "val")) == 86
    named = {Path(entry.path).name for entry in manifest.skipped if entry.skipped not in left_out}
    assert named == {"binary.txt", "latin.txt", "bad.json"}
    crlf = [record["text"] for record in documents(run, "train") + documents(run, "val") if "x = 1" in record["text"]]
    assert crlf == ["x = 1\n" + "\ufeffx = 1\n" * 29]


def test_the_splits_share_no_document_and_hang_on_the_text_alone(run: RunPaths, text: Path, tmp_path) -> None:
    forge(run.root)
    train, val = ({record["id"] for record in documents(run, split)} for split in ("train", "val"))
    assert train and val
    assert not train & val
    (text / "0000-first.txt").write_text(words(999, 200))
    write_config(tmp_path / "second", text)
    second = RunPaths(tmp_path / "second")
    forge(second.root)
    assert val <= {record["id"] for record in documents(second, "val")}
    assert train <= {record["id"] for record in documents(second, "train")}


def test_tokens_are_the_documents_behind_their_marks(run: RunPaths) -> None:
    forge(run.root)
    manifest = load_tokens(run)
    assert manifest is not None
    tokenizer = Tokenizer.from_file(str(run.tokens / "tokenizer.json"))
    table = np.fromfile(run.tokens / "token_bytes", dtype="<u2")
    for name, split in manifest.splits.items():
        stream = np.fromfile(run.tokens / split.tokens.name, dtype=split.dtype)
        starts = np.fromfile(run.tokens / split.starts.name, dtype="<u8").astype(int)
        assert (len(stream), len(starts)) == (split.count, split.documents)
        assert (stream == manifest.end_of_text).sum() == len(starts) + 1
        ends = [*starts[1:], len(stream) - 1]
        for record, start, end in zip(documents(run, name), starts, ends, strict=True):
            assert stream[start] == manifest.end_of_text
            ids = stream[start + 1 : end]
            assert tokenizer.decode(ids.tolist()) == record["text"]
            assert table[ids].sum() == len(record["text"].encode())
        assert table[stream].sum() == split.text_bytes
    assert 0 < manifest.order2_bits_per_byte < 8


def test_a_second_run_changes_nothing(run: RunPaths) -> None:
    forge(run.root)
    before = {path: path.stat().st_mtime_ns for path in [*run.shards.rglob("*"), *run.tokens.rglob("*")]}
    assert "nothing to do" in forge(run.root).stdout
    assert {path: path.stat().st_mtime_ns for path in [*run.shards.rglob("*"), *run.tokens.rglob("*")]} == before
    assert "have not changed" in forge(run.root, "--check").stdout


def test_what_a_kill_behind_the_manifest_left_is_removed(run: RunPaths) -> None:
    """The index of near duplicates of a large corpus is 760 MB of it. Found by a random kill."""
    forge(run.root)
    run.tokens_manifest.unlink()
    run.shards_work.mkdir()
    (run.shards_work / "journal.json").write_text("{}")
    forge(run.root)
    assert run.tokens_manifest.exists() and not run.shards_work.exists()


def test_changes_in_the_sources_are_named_and_taken_only_on_request(run: RunPaths, text: Path) -> None:
    forge(run.root)
    before = digests(run)
    (text / "03.txt").write_text("something else " * 30)
    (text / "04.txt").unlink()
    (text / "new.txt").write_text(words(5000, 100))
    os.utime(text / "05.txt")  # touched, the same bytes: no change
    answer = forge(run.root, "--check", expect=Exit.DATA).stdout
    for line in ("03.txt has changed", "04.txt is gone", "new.txt is new"):
        assert line in answer
    assert "05.txt" not in answer
    assert "03.txt has changed" in forge(run.root).stdout
    assert digests(run) == before
    forge(run.root, "--rebuild")
    assert digests(run) != before


# The forge with a journal every 5 kB, and slow enough to be met in the middle.
SLOW = """
import sys, time
from adam.contract.errors import run_main
from adam.forge import __main__, build
build.JOURNAL_BYTES = 5000
take = build.Build._take
build.Build._take = lambda self, *rest: (time.sleep(0.002), take(self, *rest))[1]
sys.exit(run_main("adam.forge", __main__.main))
"""


def start_slow(run: RunPaths) -> subprocess.Popen[str]:
    """A slow forge that has begun to read, or is already behind that."""
    command = [sys.executable, "-P", "-c", SLOW, "--run", str(run.root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/")
    while process.poll() is None:
        pulse = read_once(run.pulse("forge"), Pulse)
        if pulse is not None and pulse.pid == process.pid and pulse.phase >= Phase.READING:
            break
        time.sleep(0.005)
    return process


@pytest.fixture
def much(tmp_path) -> Path:
    folder = tmp_path / "much"
    folder.mkdir()
    for number in range(200):
        (folder / f"{number:03d}.txt").write_text(f"{number} {words(number, 400)}")
    (folder / "records.jsonl").write_text("\n".join(json.dumps({"text": f"r{n} {words(n, 300)}"}) for n in range(300)))
    return folder


def test_killed_at_any_moment_it_ends_with_the_same_bytes(tmp_path, much) -> None:
    whole, killed = RunPaths(tmp_path / "whole"), RunPaths(tmp_path / "killed")
    for run in (whole, killed):
        write_config(run.root, much)
    forge(whole.root)
    moments, met = random.Random(3), []
    for _ in range(10):
        with start_slow(killed) as process:
            time.sleep(moments.uniform(0.0, 0.4))
            process.kill()
            process.wait()
        if process.returncode == -signal.SIGKILL:
            pulse = read_once(killed.pulse("forge"), Pulse)
            assert pulse is not None
            met.append(pulse.phase)
    assert met.count(Phase.READING) >= 4
    assert "going on" in forge(killed.root).stderr or load_shards(killed) is not None
    assert digests(killed) == digests(whole)


def test_sigterm_stops_between_two_documents_and_the_next_start_goes_on(run: RunPaths, tmp_path, much) -> None:
    write_config(tmp_path / "stopped", much)
    stopped = RunPaths(tmp_path / "stopped")
    with start_slow(stopped) as process:
        time.sleep(0.2)
        process.terminate()
        _, errors = process.communicate(timeout=20)
    assert process.returncode == Exit.STOPPED
    assert errors.splitlines()[-1].endswith("stopped while reading sources; the next start goes on from here")
    again = forge(stopped.root)
    (line,) = [line for line in again.stderr.splitlines() if "going on" in line]
    assert re.fullmatch(r'timestamp=\S+Z event="going on" documents=\d+ bytes_read=\d+', line)
    write_config(tmp_path / "whole", much)
    forge(tmp_path / "whole")
    assert digests(stopped) == digests(RunPaths(tmp_path / "whole"))


def test_data_outlive_their_sources(run: RunPaths, text: Path) -> None:
    forge(run.root)
    before = digests(run)
    shutil.rmtree(text)
    answer = forge(run.root).stdout
    assert "01.txt is gone" in answer
    assert re.search(r"and \d+ more", answer)
    assert f"no such source: {text}" in answer
    assert f"no such source: {text}" in forge(run.root, "--check", expect=Exit.DATA).stdout
    assert "no such source" in forge(run.root, "--rebuild", expect=Exit.DATA).stderr
    assert digests(run) == before


def test_another_configuration_is_seen(run: RunPaths, text: Path) -> None:
    forge(run.root)
    write_config(run.root, text, min_chars=65)
    assert "[forge] of the configuration" in forge(run.root, "--check", expect=Exit.DATA).stdout


def test_under_a_launcher_it_beats_for_its_attempt_and_takes_no_lease(run: RunPaths) -> None:
    run.run.mkdir(parents=True)
    environment = {**os.environ, "ADAM_ATTEMPT": "3", "ADAM_TOKEN": "7"}
    done = subprocess.run(command(run.root, "--leased"), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pulse = read_once(run.pulse("forge"), Pulse)
    assert pulse is not None
    assert (pulse.attempt, pulse.token, pulse.phase) == (3, 7, Phase.ENDING)
    assert not run.lease.exists()


def test_a_run_that_is_held_is_refused(run: RunPaths) -> None:
    run.run.mkdir(parents=True)
    fd, _ = take_lease(run, "trainer", 5, 1)
    try:
        assert "holds the lease" in forge(run.root, expect=Exit.BUSY).stderr
    finally:
        os.close(fd)
    forge(run.root)
    lease = read_lease(run)
    assert lease is not None
    assert lease.token == 6


def test_sources_that_are_not_there_empty_or_too_small_are_named(tmp_path) -> None:
    write_config(tmp_path / "a", tmp_path / "nowhere")
    assert "no such source" in forge(tmp_path / "a", expect=Exit.DATA).stderr
    (tmp_path / "empty").mkdir()
    write_config(tmp_path / "b", tmp_path / "empty")
    assert "has no text files" in forge(tmp_path / "b", expect=Exit.DATA).stderr
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.txt").write_text("x" * 10)
    write_config(tmp_path / "c", tmp_path / "one")
    assert "gave no document (too_short 1)" in forge(tmp_path / "c", expect=Exit.DATA).stderr
    (tmp_path / "one" / "a.txt").write_text(words(0, 100))
    assert "split" in forge(tmp_path / "c", expect=Exit.DATA).stderr
    for name in "abc":
        assert not (tmp_path / name / "shards" / "manifest.json").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small file system needs root")
def test_a_disk_that_fills_up_costs_nothing_that_was_there(tmp_path) -> None:
    folder, small = tmp_path / "text", tmp_path / "small"
    folder.mkdir()
    small.mkdir()
    (folder / "a.jsonl").write_text("\n".join(json.dumps({"text": f"{n} {words(n, 300)}"}) for n in range(3000)))
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        write_config(small / "run", folder)
        answer = forge(small / "run", expect=Exit.DISK)
        assert "no room" in answer.stderr
        assert len(answer.stderr.strip().splitlines()) == 1
        assert not (small / "run" / "shards" / "manifest.json").exists()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_damaged_shards_and_tokens_are_named(run: RunPaths) -> None:
    forge(run.root)
    shard = next(run.shards.glob("train-*.jsonl"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert f"{shard.name} has other bytes" in forge(run.root, "--check", expect=Exit.DATA).stderr
    run.tokens_manifest.unlink()
    assert f"{shard.name} has other bytes" in forge(run.root, expect=Exit.DATA).stderr
    forge(run.root, "--rebuild")
    forge(run.root, "--check")


def test_data_that_was_trained_on_is_not_rebuilt(run: RunPaths) -> None:
    forge(run.root)
    checkpoint = run.checkpoints / "step-00000001-a01"
    checkpoint.mkdir(parents=True)
    (checkpoint / "MANIFEST.json").touch()
    assert "trained on the present data" in forge(run.root, "--rebuild", expect=Exit.BUSY).stderr
    assert run.tokens_manifest.exists()


def test_a_given_tokenizer_is_used_and_a_bad_one_named(run: RunPaths, text: Path, tmp_path) -> None:
    forge(run.root)
    write_config(tmp_path / "b", text, tokenizer=str(run.tokens / "tokenizer.json"))
    forge(tmp_path / "b")
    assert (tmp_path / "b" / "tokens" / "train.bin").read_bytes() == (run.tokens / "train.bin").read_bytes()
    (tmp_path / "broken.json").write_text("{}")
    write_config(tmp_path / "c", text, tokenizer=str(tmp_path / "broken.json"))
    assert "is no tokenizer" in forge(tmp_path / "c", expect=Exit.DATA).stderr


def test_odd_names_are_listed_as_they_are(tmp_path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in ("a b;c%d.txt", "ü\n.txt", "quote'\".txt"):
        (folder / name).write_text(words(len(name), 100))
    for number in range(20):
        (folder / f"{number}.txt").write_text(words(number + 50, 100))
    write_config(tmp_path / "run", folder)
    forge(tmp_path / "run")
    lines = (tmp_path / "run" / "shards" / "sources.jsonl").read_bytes().splitlines()
    names = {Path(msgspec.json.decode(line, type=SourceFile).path).name for line in lines}
    assert {"a b;c%d.txt", "ü\n.txt", "quote'\".txt"} <= names
