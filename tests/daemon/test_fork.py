"""`adamctl fork`, and which configuration a run goes on with."""

import errno
import json
import os
from pathlib import Path

import msgspec
import pytest

from adam.contract import schema
from adam.contract.checkpoints import verify
from adam.contract.clock import stamp
from adam.contract.config_file import load_config, to_toml
from adam.contract.durable import sha256_file
from adam.contract.errors import ConfigError
from adam.contract.paths import RunPaths
from adam.contract.shards import DataFile, ShardManifest, TokensManifest, TokenSplit, data_ready
from adam.contract.states import Exit
from adam.daemon import fork
from adam.daemon.settle import settle


def data_file(path: Path, data: bytes) -> DataFile:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return DataFile(path.name, len(data), sha256_file(path))


def add_data(paths: RunPaths) -> None:
    shard = data_file(paths.shards / "train-00000.jsonl", b"{}\n")
    manifest = ShardManifest(config_digest="", sources=(), skipped=(), files=(shard,), val_fraction=0.1, stamp=stamp())
    schema.save(paths.shards_manifest, manifest)
    files = [
        data_file(paths.tokens / name, name.encode())
        for name in ("train.bin", "train.docs", "tokenizer.json", "token_bytes")
    ]
    split = TokenSplit(files[0], files[1], "<u2", 4, 1, 4)
    tokens = TokensManifest(
        shards_sha256=sha256_file(paths.shards_manifest), tokenizer=files[2], tokenizer_origin="", vocab_size=300, end_of_text=0,
        token_bytes=files[3], splits={"train": split}, order2_bits_per_byte=2.5, stamp=stamp(),
    )  # fmt: skip
    schema.save(paths.tokens_manifest, tokens)


@pytest.fixture
def parent(world) -> RunPaths:
    paths = world.run("parent")
    paths.config.write_text(paths.lock.read_text())
    add_data(paths)
    world.checkpoint(paths, 40)
    world.checkpoint(paths, 80)
    return paths


def spoil(checkpoint: Path) -> None:
    (checkpoint / "rank-00000.safetensors").write_bytes(b"weightz")


@pytest.mark.parametrize("by_path", [True, False])
def test_a_fork_has_data_checkpoint_and_origin(world, parent, by_path: bool) -> None:
    name = "step-00000080-a01"
    where = [parent.checkpoints / name] if by_path else ["newest", "--run", "parent"]
    world.adamctl("fork", "--from", *where, "child")
    child = RunPaths(world.root / "child")
    assert [path.name for path in child.checkpoints.iterdir()] == [name]
    verify(child.checkpoints / name)
    assert data_ready(child)
    assert load_config(child.lock) == load_config(parent.lock)
    assert child.config.read_text() == parent.config.read_text()
    assert child.tokens.joinpath("train.bin").samefile(parent.tokens / "train.bin")
    assert json.loads((child.root / "origin.json").read_text())["checkpoint"] == name


def test_across_file_systems_a_fork_copies(world, parent, monkeypatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "cross-device link", str(source), str(target))

    monkeypatch.setattr(os, "link", refuse)
    child = RunPaths(world.root / "child")
    fork.build(parent, parent.checkpoints / "step-00000040-a01", child)
    assert data_ready(child)
    assert not child.tokens.joinpath("train.bin").samefile(parent.tokens / "train.bin")


def test_a_fork_of_a_bad_checkpoint_writes_nothing(world, parent) -> None:
    spoil(parent.checkpoints / "step-00000080-a01")
    before = world.snapshot()
    world.adamctl("fork", "--from", parent.checkpoints / "step-00000080-a01", "child", expect=Exit.CHECKPOINT)
    world.adamctl("fork", "--from", "step-00000099-a01", "child", "--run", "parent", expect=Exit.CHECKPOINT)
    (parent.tokens / "train.bin").write_bytes(b"short")
    world.adamctl("fork", "--from", "step-00000040-a01", "child", "--run", "parent", expect=Exit.DATA)
    (parent.tokens / "train.bin").write_bytes(b"train.bin")
    world.adamctl("fork", "--from", "step-00000040-a01", "parent", "--run", "parent", expect=Exit.USAGE)
    assert world.snapshot() == before


def test_a_fork_that_fails_half_way_leaves_nothing(world, parent, monkeypatch) -> None:
    monkeypatch.setattr(fork, "write_lock", lambda path, config: path.rmdir())
    arguments = type(
        "Arguments", (), {"origin": "step-00000040-a01", "run": str(parent.root), "target": str(world.root / "child")}
    )
    before = world.snapshot()
    with pytest.raises(FileNotFoundError):
        fork.run(arguments)
    assert world.snapshot() == before


def changed(config, **trainer):
    return msgspec.structs.replace(config, trainer=msgspec.structs.replace(config.trainer, **trainer))


def test_a_fork_may_change_its_trainer_until_it_has_trained(world, parent) -> None:
    world.adamctl("fork", "--from", "step-00000040-a01", "child", "--run", "parent")
    child = RunPaths(world.root / "child")
    config = load_config(child.lock)
    wanted = changed(config, lr=1e-2, steps=500, seq_len=32)
    assert settle(child, wanted) == (wanted, [])
    # A schedule that is not laid out is the parent's.
    assert settle(child, changed(config, decay_steps=0, steps=500))[0].trainer.decay_steps == 100
    with pytest.raises(ConfigError, match=r"model\.d_model"):
        settle(child, msgspec.structs.replace(config, model=msgspec.structs.replace(config.model, d_model=32)))
    child.steps.write_text("{}\n")
    with pytest.raises(ConfigError, match=r"trainer\.lr"):
        settle(child, wanted)
    with pytest.raises(ConfigError, match=r"trainer\.lr"):
        settle(parent, changed(load_config(parent.lock), lr=1e-2))


def test_data_settings_may_change_until_there_are_data_or_to_rebuild_them(world) -> None:
    paths = world.run()
    config = load_config(paths.lock)
    other = msgspec.structs.replace(config, forge=msgspec.structs.replace(config.forge, min_chars=3))
    paths.shards_work.mkdir(parents=True)
    assert settle(paths, other)[0] == other
    add_data(paths)
    with pytest.raises(ConfigError, match=r"forge\.min_chars"):
        settle(paths, other)
    assert settle(paths, other, rebuild_data=True)[0] == other
    world.checkpoint(paths, 10)
    with pytest.raises(ConfigError, match=r"forge\.min_chars"):
        settle(paths, other, rebuild_data=True)


def test_forge_refuses_before_it_becomes_the_forge(world) -> None:
    paths = world.run()
    paths.config.write_text(to_toml(world.config()).replace(str(world.text), "/no/such/text"))
    before = world.snapshot()
    world.adamctl("forge", "--run", "run", expect=Exit.DATA)
    world.adamctl("forge", "--check", "--run", "nowhere", expect=Exit.CONFIG)
    assert world.snapshot() == before
