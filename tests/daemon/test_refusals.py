"""What `up` refuses: one line, the documented exit code, and nothing written."""

import fcntl
from pathlib import Path

import pytest

from adam.contract import schema
from adam.contract.clock import stamp
from adam.contract.lease import take_lease
from adam.contract.paths import RunPaths
from adam.contract.records import Desired
from adam.contract.shards import DataFile, ShardManifest
from adam.contract.states import Exit
from adam.daemon import processes
from adam.daemon.processes import refuse_if_running


def refused(world, code: Exit, *arguments: str | Path) -> str:
    before = world.snapshot()
    done = world.adamctl("up", *arguments, expect=code)
    assert world.snapshot() == before
    return done.stderr


@pytest.mark.parametrize(
    ("extra", "code", "words"),
    [
        ("nmae = 'x'", Exit.CONFIG, "unknown key nmae; did you mean name?"),
        ("trainer.steps = 'many'", Exit.CONFIG, "trainer.steps = 'many'"),
        ("trainer.steps = 0", Exit.CONFIG, "trainer.steps = 0"),
        ("trainer.batch_size = 3\ntrainer.micro_batch = 2", Exit.CONFIG, "trainer.micro_batch = 2"),
        ("schema = 99", Exit.SCHEMA, "schema = 99"),
        ("this is not toml", Exit.CONFIG, "not valid TOML"),
        ("forge.tokenizer = 'train'\nforge.vocab_size = 5000\nmodel.vocab_size = 4000", Exit.CONFIG, "model.vocab_size = 4000"),
    ],
)  # fmt: skip
def test_bad_configurations(world, extra: str, code: Exit, words: str) -> None:
    path = world.root / "c.toml"
    path.write_text(extra)
    assert words in refused(world, code, "--config", path, "--run", "r")


def test_a_configuration_that_is_not_there(world) -> None:
    assert "no.toml" in refused(world, Exit.CONFIG, "--config", "no.toml", "--run", "r")


def test_no_such_source_and_an_empty_one(world) -> None:
    path = world.root / "c.toml"
    path.write_text("[[forge.sources]]\npath = '/no/such/text'")
    assert "no such source: /no/such/text" in refused(world, Exit.DATA, "--config", path, "--run", "r")
    (world.root / "empty").mkdir()
    path.write_text(f"[[forge.sources]]\npath = '{world.root / 'empty'}'")
    assert "is empty" in refused(world, Exit.DATA, "--config", path, "--run", "r")


def test_no_room_for_checkpoints(world) -> None:
    path = world.write_toml(world.root / "c.toml")
    path.write_text(path.read_text().replace("d_model = 16", "d_model = 200000"))
    line = refused(world, Exit.DISK, "--config", path, "--run", "r")
    assert "needed" in line and "free" in line


def test_places_that_cannot_be_written(world) -> None:
    (world.root / "file").write_text("")
    path = world.write_toml(world.root / "c.toml")
    assert "is a file" in refused(world, Exit.DISK, "--config", path, "--run", "file/run")
    assert world.adamctl("up", "--config", path, "--run", "/proc/run", expect=Exit.DISK)
    line_break = world.adamctl("up", "--config", path, "--run", "a\nb", expect=None)
    assert line_break.returncode == Exit.USAGE


def test_a_newer_run_directory(world) -> None:
    paths = world.run()
    newer = '{"schema": 99}'
    for path in (paths.status, paths.desired, paths.plan, paths.tokens_manifest, paths.shards_manifest):
        path.parent.mkdir(exist_ok=True)
        path.write_text(newer)
        assert "upgrade Adam" in refused(world, Exit.SCHEMA, "--run", "run"), path
        path.unlink()
    paths.lock.write_text("schema = 99")
    assert "upgrade Adam" in refused(world, Exit.SCHEMA, "--run", "run")


def test_a_key_that_cannot_change_any_more(world) -> None:
    paths = world.run()
    world.checkpoint(paths, 10)
    assert "model.d_state can't change" in refused(world, Exit.CONFIG, "--run", "run")


def test_a_shard_that_is_cut_short(world) -> None:
    paths = world.run()
    paths.shards.mkdir()
    (paths.shards / "train-00000.jsonl").write_bytes(b"short")
    manifest = ShardManifest(
        config_digest="", sources=(), skipped=(), files=(DataFile("train-00000.jsonl", 99, ""),), val_fraction=0.1, stamp=stamp()
    )  # fmt: skip
    schema.save(paths.shards_manifest, manifest)
    paths.config.write_text(paths.lock.read_text())
    assert "train-00000.jsonl has 5 bytes" in refused(world, Exit.DATA, "--run", "run")


def test_a_lease_that_somebody_holds(world) -> None:
    paths = world.run()
    fd, _ = take_lease(paths, "forge", 1, 1)
    assert "forge (process" in refused(world, Exit.BUSY, "--run", "run")
    fcntl.flock(fd, fcntl.LOCK_UN)


def test_a_lease_of_a_process_that_is_dying_is_waited_for(tmp_path, monkeypatch) -> None:
    """supervisord was killed: its children have no memory any more, by which they are known, and still their locks."""
    paths = RunPaths(tmp_path / "run")
    paths.run.mkdir(parents=True)
    fd, _ = take_lease(paths, "trainer", 1, 1)
    polls: list[float] = []

    def released(seconds: float) -> None:
        polls.append(seconds)
        fcntl.flock(fd, fcntl.LOCK_UN)

    monkeypatch.setattr(processes.time, "sleep", released)
    refuse_if_running(paths)
    assert len(polls) == 1


def test_another_up_at_work(world) -> None:
    paths = world.run()
    paths.config.write_text(paths.lock.read_text())
    with paths.up_lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another `adamctl up`" in refused(world, Exit.BUSY, "--run", "run")


def test_torn_files_of_the_run_are_no_obstacle(world) -> None:
    paths = world.run()
    paths.status.write_text("{")
    paths.desired.write_text('{"running": 3}')
    world.adamctl("status", "--run", "run")
    world.adamctl("resume", "--run", "run")
    assert schema.load(paths.desired, Desired) is not None
