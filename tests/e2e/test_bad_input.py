"""Bad input through the real command line: one clear line on stderr, the documented code, nothing written or lost."""

import json
from pathlib import Path

import pytest
from real_run import RealRun, wait_for

from adam.contract.checkpoints import list_checkpoints, rank_file
from adam.contract.states import Exit


def refused(run: RealRun, code: Exit, *parts: str, arguments: tuple[str, ...] = ("up",)) -> None:
    """`adamctl` refuses with one line that has all `parts`, and nothing new lies in the run directory."""
    before = sorted(path.relative_to(run.paths.root) for path in run.paths.root.rglob("*"))
    done = run.adamctl(*arguments, expect=int(code))
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    for part in parts:
        assert part in lines[0]
    assert sorted(path.relative_to(run.paths.root) for path in run.paths.root.rglob("*")) == before
    assert run.processes() == []


def change(run: RealRun, old: str, new: str) -> None:
    text = run.paths.config.read_text()
    assert old in text
    run.paths.config.write_text(text.replace(old, new))


def test_an_unknown_key_is_named_with_the_nearest_known_one(new_run) -> None:
    run = new_run()
    change(run, "warmup_steps", "warmup_step")
    refused(run, Exit.CONFIG, "unknown key trainer.warmup_step", "did you mean warmup_steps")


def test_a_bad_value_is_named_with_what_is_allowed(new_run) -> None:
    run = new_run()
    change(run, "seq_len = 64", 'seq_len = "long"')
    refused(run, Exit.CONFIG, "trainer.seq_len = 'long'", "expected int")


def test_no_such_source(new_run) -> None:
    run = new_run(config='[[forge.sources]]\npath = "/no/such/text"\n')
    refused(run, Exit.DATA, "no such source: /no/such/text")


def test_a_newer_run_directory(new_run) -> None:
    run = new_run()
    run.paths.run.mkdir()
    run.paths.status.write_text(json.dumps({"schema": 99}))
    refused(run, Exit.SCHEMA, "schema 99", "upgrade Adam")


def test_a_newer_configuration(new_run) -> None:
    run = new_run()
    run.paths.config.write_text("schema = 99\n")
    refused(run, Exit.SCHEMA, "schema = 99")


def test_no_room_for_the_checkpoints(new_run) -> None:
    run = new_run()
    change(run, "d_model = 32", "d_model = 200000")
    refused(run, Exit.DISK, "needed", "free")


@pytest.mark.parametrize("place", ["/proc/adam-run", "/dev/null/run"])
def test_a_run_directory_that_can_not_be_written(new_run, place: str) -> None:
    run = new_run()
    done = run.adamctl("up", "--run", place, "--config", str(run.paths.config), expect=None)
    assert done.returncode == Exit.DISK, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert place.rsplit("/", 1)[0] in done.stderr


def test_an_empty_source_is_an_end_with_the_reason(new_run, tmp_path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    (text / "a.txt").write_text("")
    (text / "b.bin").write_bytes(b"\0\1")
    run = new_run(config=f'[[forge.sources]]\npath = "{text}"\n')
    done = run.adamctl("up", "--wait", expect=int(Exit.FAILED))
    status = run.status()
    assert status["state"] == "failed"
    assert str(text) in status["reason"]
    assert "no document" in status["reason"]
    assert "failed" in done.stdout


def test_binary_and_undecodable_files_are_skipped_counted_and_listed(new_run, tmp_path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    for number in range(40):
        (text / f"{number}.txt").write_text(f"document {number} " * 200)
    (text / "binary.txt").write_bytes(b"\0" * 100)
    (text / "latin.txt").write_bytes("é".encode("latin-1") * 100)
    run = new_run(config=f'[[forge.sources]]\npath = "{text}"\n[forge]\nval_fraction = 0.2\nvocab_size = 300\n')
    run.adamctl("forge")
    manifest = json.loads(run.paths.shards_manifest.read_text())
    assert manifest["sources"][0]["files_skipped"] == {"binary": 1, "not_utf8": 1}
    assert {Path(entry["path"]).name for entry in manifest["skipped"]} == {"binary.txt", "latin.txt"}


def test_a_second_up_on_a_running_run(new_run) -> None:
    run = new_run(steps=100000)
    run.adamctl("up")
    wait_for("a step", lambda: run.step() >= 1)
    pid = run.trainer_pid()
    done = run.adamctl("up", expect=int(Exit.BUSY))
    assert "already running" in done.stderr
    assert run.trainer_pid() == pid
    run.adamctl("down")
    assert run.processes() == []


def test_a_truncated_shard_is_named(new_run) -> None:
    run = new_run()
    run.adamctl("forge")
    shard = next(run.paths.shards.glob("train-*.jsonl"))
    shard.write_bytes(shard.read_bytes()[:-10])
    done = run.adamctl("forge", "--check", expect=int(Exit.DATA))
    assert shard.name in done.stderr
    assert shard.name in run.adamctl("up", expect=int(Exit.DATA)).stderr
    run.adamctl("forge", "--rebuild")
    tokens = run.paths.tokens / "train.bin"
    tokens.write_bytes(tokens.read_bytes()[:-10])
    assert "train.bin has" in run.adamctl("up", expect=int(Exit.DATA)).stderr
    assert run.processes() == []


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_checkpoint_is_quarantined_and_the_one_before_it_used(new_run, damage: str) -> None:
    run = new_run(steps=60)
    run.adamctl("up", "--wait")
    first = run.losses()
    newest, before = list_checkpoints(run.paths.checkpoints)[-1], list_checkpoints(run.paths.checkpoints)[-2]
    data = bytearray((newest / rank_file(0)).read_bytes())
    if damage == "truncated":
        del data[-100:]
    else:
        data[len(data) // 2] ^= 4
    (newest / rank_file(0)).write_bytes(data)
    assert newest.name in run.adamctl("checkpoints", "verify", expect=int(Exit.CHECKPOINT)).stdout
    change(run, "steps = 60\n", "steps = 80\n")
    run.adamctl("up", "--wait")
    assert [path.name for path in run.paths.quarantine.iterdir()] == [newest.name]
    assert (run.paths.quarantine / newest.name / "REASON.txt").read_text()
    assert before.exists() or len(list_checkpoints(run.paths.checkpoints)) >= 1
    assert run.losses()[:60] == first
    assert len(run.losses()) == 80


def test_a_key_that_can_not_change_is_refused_by_name(new_run) -> None:
    run = new_run(steps=20)
    run.adamctl("up", "--wait")
    change(run, "n_layer = 2", "n_layer = 3")
    done = run.adamctl("up", expect=int(Exit.CONFIG))
    assert "model.n_layer can't change" in done.stderr
