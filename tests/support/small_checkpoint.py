"""Checkpoints of a small model without a trainer: weights, moments, whole and verified, in a run with shards and tokens."""

from pathlib import Path

import msgspec
import numpy as np
from small_run import make_run, small_config

from adam.contract import schema
from adam.contract.checkpoints import MANIFEST, FileEntry, checkpoint_name, manifest_of, rank_file, seal
from adam.contract.clock import stamp
from adam.contract.config import Config, Upload
from adam.contract.config_file import commented_toml, config_digest
from adam.contract.durable import sha256_file
from adam.contract.model import parameter_count, resolved
from adam.contract.paths import RunPaths
from adam.contract.shards import DataFile, ShardManifest, SourceSummary, load_tokens
from adam.contract.slots import SlotHead, SlotWriter, TensorEntry

IDS = 64


def uploading_config(**upload) -> Config:
    return msgspec.structs.replace(small_config(), upload=Upload(**upload))


def make_uploading_run(root: Path, **upload) -> RunPaths:
    """A run with data, its configuration, and no checkpoint yet."""
    config = uploading_config(**upload)
    paths = make_run(root, config)
    paths.config.write_text(commented_toml(config))
    paths.shards.mkdir()
    shard = paths.shards / "train-00000.jsonl"
    shard.write_text('{"text": "a document"}\n')
    entry = DataFile(shard.name, shard.stat().st_size, sha256_file(shard), "train", 1)
    source = SourceSummary("a | source", "files", "/text", "r1", "CC-BY-4.0", 1, 1, 1, 10, {}, {})
    shards = ShardManifest(
        config_digest="", sources=(source,), skipped=(), files=(entry,), val_fraction=0.01, stamp=stamp()
    )
    schema.save(paths.shards_manifest, shards)
    tokens = load_tokens(paths)
    assert tokens is not None
    schema.save(
        paths.tokens_manifest, msgspec.structs.replace(tokens, shards_sha256=sha256_file(paths.shards_manifest))
    )
    return paths


def write_checkpoint(paths: RunPaths, step: int, attempt: int = 1) -> Path:
    """Weights that follow from the step."""
    shape = resolved(small_config().model, IDS)
    rng = np.random.default_rng(step)
    embedding = rng.standard_normal((IDS, shape.d_model)).astype("<f4")
    rest = rng.standard_normal(parameter_count(shape) - embedding.size).astype("<f4")
    tensors = {"model.backbone.embedding.weight": embedding, "model.backbone.rest": rest, "exp_avg.rest": rest}
    directory = paths.checkpoints / checkpoint_name(step, attempt)
    directory.mkdir()
    entries = [TensorEntry(name, "F32", value.shape) for name, value in tensors.items()]
    writer = SlotWriter(directory / rank_file(0), entries)
    assert writer.begin()
    for name, value in tensors.items():
        writer.buffer(name)[:] = value.tobytes()
    head = SlotHead(
        run="r", attempt=attempt, token=1, sequence=1, step=step, tokens=step * 64, samples=step * 4, saves=0,
        why="interval", parent="", fingerprint="f", config_digest=config_digest(shape), state={},
    )  # fmt: skip
    writer.complete(head)
    writer.close()
    files = tuple(FileEntry(f.name, f.stat().st_size, sha256_file(f)) for f in sorted(directory.iterdir()))
    (directory / MANIFEST).write_bytes(seal(manifest_of(head, files, stamp())))
    return directory
