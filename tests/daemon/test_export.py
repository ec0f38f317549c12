"""`adamctl checkpoints export-weights`: what others load is what was trained, or nothing is written."""

import errno
import fcntl
import json
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from small_run import make_run, small_config, write_plan

from adam.contract import weights
from adam.contract.checkpoints import MANIFEST, FileEntry, checkpoint_name, manifest_of, rank_file, seal
from adam.contract.clock import stamp
from adam.contract.config_file import config_digest, write_lock
from adam.contract.durable import sha256_file
from adam.contract.errors import CheckpointError, ConfigError, DiskError
from adam.contract.flock import flocked
from adam.contract.model import ModelConfig, resolved
from adam.contract.paths import RunPaths
from adam.contract.slots import Part, SlotHead, SlotWriter, TensorEntry
from adam.contract.snapshots import complete_snapshots
from adam.contract.states import Exit
from adam.contract.whole import whole_tensors
from adam.daemon import export
from adam.trainer.attempt import run_attempt
from adam.trainer.model.lm import MambaLM
from adam.trainer.ops.reference import ReferenceOps
from adam.trainer.weights import begin_with

NAME = "step-00000040-a01"


def head_of(shape: ModelConfig, **fields) -> SlotHead:
    return SlotHead(
        run="r", attempt=1, token=1, sequence=1, step=40, tokens=400, samples=4, saves=0, why="interval", parent="",
        fingerprint="f", config_digest=config_digest(shape), state={}, **fields,
    )  # fmt: skip


def finish(directory: Path, head: SlotHead) -> None:
    files = tuple(FileEntry(f.name, f.stat().st_size, sha256_file(f)) for f in sorted(directory.iterdir()))
    (directory / MANIFEST).write_bytes(seal(manifest_of(head, files, stamp())))


def rows_of(tensor: torch.Tensor, rank: int, world: int) -> tuple[int, torch.Tensor]:
    """The rows of a rank, spread as FSDP2 does: ranks at the end may have none."""
    chunk = -(-tensor.shape[0] // world)
    start = min(tensor.shape[0], rank * chunk)
    return start, tensor[start : start + chunk]


def write_checkpoint(paths: RunPaths, model: MambaLM, shape: ModelConfig, world: int = 1) -> Path:
    """As trainer and keeper make them: weights, a moment, a generator; spread over `world` ranks."""
    directory = paths.checkpoints / checkpoint_name(40, 1)
    directory.mkdir()
    named = dict(model.named_parameters())
    tensors = {f"model.{name}": value.detach() for name, value in named.items()}
    tensors |= {f"exp_avg.{name}": torch.ones_like(value) for name, value in named.items()}
    for rank in range(world):
        own = {name: rows_of(value, rank, world) for name, value in tensors.items()} if world > 1 else {}
        there = {name: own[name][1] if own else value for name, value in tensors.items()}
        entries = [TensorEntry(name, "F32", tuple(value.shape)) for name, value in there.items()]
        writer = SlotWriter(directory / rank_file(rank), [*entries, TensorEntry("rng.cpu", "U8", (9,))])
        assert writer.begin()
        for name, value in there.items():
            writer.buffer(name)[:] = value.contiguous().numpy().tobytes()
        parts = {name: Part(tuple(tensors[name].shape), start) for name, (start, _) in own.items()}
        writer.complete(head_of(shape, rank=rank, world=world, parts=parts))
        writer.close()
    finish(directory, head_of(shape))
    return directory


def build(arch: str = "mamba1", **changes) -> tuple[ModelConfig, MambaLM]:
    config = ModelConfig(**{"arch": arch, "d_model": 32, "n_layer": 2, "d_state": 8, "headdim": 16, **changes})
    torch.manual_seed(1)
    shape = resolved(config, 50)
    return shape, MambaLM(shape, ReferenceOps())


def a_run(world, arch: str = "mamba1", ranks: int = 1, **changes) -> tuple[RunPaths, MambaLM]:
    shape, model = build(arch, **changes)
    # As people write it: what can be filled in is left out.
    config = ModelConfig(**{"arch": arch, "d_model": 32, "n_layer": 2, "d_state": 8, "headdim": 16, **changes})
    paths = world.run(config=msgspec.structs.replace(world.config(), model=config))
    write_checkpoint(paths, model, shape, ranks)
    return paths, model


def export_weights(world, *arguments: str, expect: int = 0):
    return world.adamctl("checkpoints", "export-weights", *arguments, "--run", "run", expect=expect)


def logits(model: MambaLM) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(48).view(2, 24))


@pytest.mark.parametrize(
    ("arch", "ranks", "changes"),
    [("mamba1", 1, {}), ("mamba2", 1, {}), ("mamba1", 3, {"tie_embeddings": False}), ("mamba2", 5, {})],
)
def test_what_is_exported_computes_the_same(world, arch: str, ranks: int, changes) -> None:
    _, model = a_run(world, arch, ranks, **changes)
    said = export_weights(world, "out").stdout
    assert said.startswith("out: model.safetensors") and NAME in said
    stored = load_file(world.root / "out" / "model.safetensors")
    assert list(stored) and all(torch.equal(stored[name], value) for name, value in model.state_dict().items())
    config = json.loads((world.root / "out" / "config.json").read_text())
    again = MambaLM(shape_from(config), ReferenceOps())
    again.load_state_dict(stored)  # strict, as mamba_ssm's: names and shapes are all there, and no others
    assert torch.equal(logits(again), logits(model))
    assert sorted(path.name for path in (world.root / "out").iterdir()) == ["config.json", "model.safetensors"]


def shape_from(config: dict) -> ModelConfig:
    """What mamba_ssm would build of a config.json, in our words; every field it does not say has mamba_ssm's default."""
    ssm = dict(config["ssm_cfg"])
    layer = ssm.pop("layer")
    assert config["rms_norm"] and config["residual_in_fp32"] and not config["attn_layer_idx"]
    vocabulary = -(-config["vocab_size"] // config["pad_vocab_size_multiple"]) * config["pad_vocab_size_multiple"]
    return ModelConfig(
        arch={"Mamba1": "mamba1", "Mamba2": "mamba2"}[layer], d_model=config["d_model"], n_layer=config["n_layer"],
        vocab_size=vocabulary, tie_embeddings=config["tie_embeddings"], **ssm,
    )  # fmt: skip


@pytest.mark.parametrize(("arch", "changes"), [("mamba1", {}), ("mamba2", {"tie_embeddings": False})])
def test_what_is_exported_for_transformers_can_be_begun_with(world, arch: str, changes) -> None:
    """That transformers takes this form, and gives the same logits, is in tests/trainer/test_weights.py."""
    _, model = a_run(world, arch, **changes)
    export_weights(world, "out", "--for", "transformers", "--dtype", "bf16")
    stored = load_file(world.root / "out" / "model.safetensors")
    assert "backbone.embeddings.weight" in stored and ("lm_head.weight" in stored) == (arch == "mamba2")
    config = json.loads((world.root / "out" / "config.json").read_text())
    assert (config["model_type"], config["torch_dtype"]) == ({"mamba1": "mamba", "mamba2": "mamba2"}[arch], "bfloat16")
    shape, again = build(arch, **changes)
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.zero_()
    begin_with(world.root / "out", again, shape, lambda: None)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value.bfloat16().float())


def test_the_fields_are_those_of_mamba_ssms_config(world) -> None:
    shape, _ = build("mamba2")
    # mamba_ssm 2.2 and later: dataclass MambaConfig.
    assert set(weights.mamba_config(shape)) == {
        "d_model", "d_intermediate", "n_layer", "vocab_size", "ssm_cfg", "attn_layer_idx", "attn_cfg", "rms_norm",
        "residual_in_fp32", "fused_add_norm", "pad_vocab_size_multiple", "tie_embeddings",
    }  # fmt: skip
    layers = {arch: set(weights.mamba_config(build(arch)[0])["ssm_cfg"]) for arch in ("mamba1", "mamba2")}
    assert layers == {
        "mamba1": {"layer", "d_state", "d_conv", "expand", "dt_rank"},
        "mamba2": {"layer", "d_state", "d_conv", "expand", "headdim", "ngroups", "chunk_size"},
    }


def test_bf16_is_rounded_as_torch_does(world) -> None:
    _, model = a_run(world)
    export_weights(world, NAME, "out", "--dtype", "bf16")
    stored = load_file(world.root / "out" / "model.safetensors")
    assert all(torch.equal(stored[name], value.bfloat16()) for name, value in model.state_dict().items())


def test_every_kind_of_number_becomes_bf16_as_torch_does() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32)
    ties = (np.arange(2**16, dtype=np.uint32) << 16) + 0x8000
    values = np.concatenate([bits, ties, ties - 1, ties + 1]).view(np.float32)
    theirs = torch.from_numpy(values.copy()).bfloat16()
    ours = torch.frombuffer(bytearray(weights.to_bf16(values.tobytes())), dtype=torch.bfloat16)
    numbers = ~theirs.isnan()
    assert torch.equal(ours.isnan(), theirs.isnan()) and numbers.sum() > 300_000
    assert torch.equal(ours[numbers].view(torch.int16), theirs[numbers].view(torch.int16))


def test_the_file_says_what_it_is(world) -> None:
    a_run(world, norm_epsilon=1e-6)
    assert "set it to 1e-06" in export_weights(world, "out").stdout
    with safe_open(world.root / "out" / "model.safetensors", framework="np") as file:
        said = file.metadata()
    assert said == {"format": "pt", "checkpoint": NAME, "step": "40", "tokens": "400", "norm_epsilon": "1e-06"}


def test_a_checkpoint_of_the_real_trainer(world) -> None:
    paths = make_run(world.root / "run", small_config(steps=2))
    write_plan(paths)
    assert run_attempt(paths.root, 1, lambda: False)
    snapshot = complete_snapshots(paths)[0]
    directory = paths.checkpoints / snapshot.name
    directory.mkdir()
    (directory / rank_file(0)).write_bytes(snapshot.files[0].read_bytes())
    finish(directory, snapshot.head)
    export_weights(world, "out")
    stored = load_file(world.root / "out" / "model.safetensors")
    again = MambaLM(shape_from(json.loads((world.root / "out" / "config.json").read_text())), ReferenceOps())
    again.load_state_dict(stored)
    with safe_open(snapshot.files[0], framework="pt") as file:
        for name in stored:
            kept = "backbone.embedding.weight" if name == "lm_head.weight" else name
            assert torch.equal(stored[name], file.get_tensor(f"model.{kept}"))


def test_nothing_is_written_where_it_can_not_be_right(world) -> None:
    paths, _ = a_run(world)
    (world.root / "full").mkdir()
    (world.root / "full" / "something").write_text("")
    file = paths.checkpoints / NAME / rank_file(0)
    good, before = file.read_bytes(), world.snapshot()
    export_weights(world, "full", expect=Exit.USAGE)
    export_weights(world, "text/a.txt", expect=Exit.USAGE)
    export_weights(world, "no/such/place", expect=Exit.USAGE)
    export_weights(world, NAME, expect=Exit.USAGE)  # the directory was forgotten
    export_weights(world, "step-00000041-a01", "out", expect=Exit.CHECKPOINT)
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert "SHA-256 differs" in export_weights(world, "out", expect=Exit.CHECKPOINT).stderr
    file.write_bytes(good)
    assert world.snapshot() == before


def test_a_configuration_of_another_model_is_refused(world) -> None:
    paths, _ = a_run(world)
    write_lock(paths.lock, world.config())
    before = world.snapshot()
    assert "another model" in export_weights(world, "out", expect=Exit.CONFIG).stderr
    assert world.snapshot() == before


def test_a_missing_part_is_named(world) -> None:
    paths, _ = a_run(world, ranks=3)
    checkpoint = paths.checkpoints / NAME
    (checkpoint / rank_file(1)).write_bytes((checkpoint / rank_file(0)).read_bytes())
    with pytest.raises(CheckpointError, match="rows, the next are missing"):
        whole_tensors(checkpoint)
    (checkpoint / rank_file(1)).unlink()
    with pytest.raises(CheckpointError, match=r"rank-00001\.safetensors is missing"):
        whole_tensors(checkpoint)


def arguments(paths: RunPaths, target: Path):
    fields = {"run": str(paths.root), "name": "newest", "target": str(target), "dtype": "fp32", "form": "mamba_ssm"}
    return type("Arguments", (), fields)


def test_a_disk_that_fills_up_leaves_nothing(world, monkeypatch) -> None:
    paths, _ = a_run(world)
    before = world.snapshot()

    def fail(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        export.run(arguments(paths, world.root / "out"))
    monkeypatch.undo()
    monkeypatch.setattr("adam.contract.durable.free_bytes", lambda _: 1000)
    with pytest.raises(DiskError, match="no room for the weights"):
        export.run(arguments(paths, world.root / "out"))
    assert world.snapshot() == before


def test_an_empty_directory_is_filled(world) -> None:
    paths, _ = a_run(world)
    (world.root / "out").mkdir()
    assert export.run(arguments(paths, world.root / "out")) == 0
    assert (world.root / "out" / "config.json").exists()


def test_other_weights_than_the_shape_says_are_refused(world) -> None:
    paths, _ = a_run(world)
    _, tensors = whole_tensors(paths.checkpoints / NAME)
    shape = resolved(ModelConfig(d_model=32, n_layer=3, d_state=8), 50)
    with pytest.raises(CheckpointError, match="weights are not the"):
        weights.weights_of(tensors, shape)
    with pytest.raises(ConfigError, match="another model"):
        head, _ = whole_tensors(paths.checkpoints / NAME)
        weights.shape_of(paths, paths.checkpoints / NAME, msgspec.structs.replace(head, config_digest="x"), tensors)


def test_the_keeper_can_not_delete_it_meanwhile(world, monkeypatch) -> None:
    paths, _ = a_run(world)
    free = []

    def look(*_: object) -> None:
        with flocked(paths.checkpoints / NAME, fcntl.LOCK_EX | fcntl.LOCK_NB) as locked:
            free.append(locked)

    monkeypatch.setattr(export, "verify", look)
    monkeypatch.setattr(export, "write_weights", look)
    export.run(arguments(paths, world.root / "out"))
    look()
    assert free == [False, False, True]
