"""A run directory with a small made-up text, for tests that train."""

import hashlib
from pathlib import Path

import msgspec
import numpy as np

from adam.contract import schema
from adam.contract.clock import stamp
from adam.contract.config import Checkpoint, Config, Trainer
from adam.contract.config_file import write_lock
from adam.contract.lock import settle_config
from adam.contract.model import ModelConfig
from adam.contract.paths import RunPaths
from adam.contract.records import Plan, Resume
from adam.contract.shards import DataFile, TokensManifest, TokenSplit

VOCABULARY = 64
END_OF_TEXT = 0


def small_config(**trainer) -> Config:
    values = {
        "steps": 6, "seq_len": 16, "batch_size": 4, "micro_batch": 2, "lr": 1e-2, "warmup_steps": 2, "threads": 1,
        "eval_every": 3, "eval_tokens": 64, "device": "cpu",
    }  # fmt: skip
    return settle_config(
        Config(
            model=ModelConfig(d_model=16, n_layer=2, d_state=4),
            trainer=Trainer(**{**values, **trainer}),
            checkpoint=Checkpoint(every_steps=2, every_minutes=0),
        ),
        None,
        has_data=False,
        has_training=False,
    )[0]


def data_file(path: Path) -> DataFile:
    data = path.read_bytes()
    return DataFile(path.name, len(data), hashlib.sha256(data).hexdigest())


def write_split(directory: Path, name: str, documents: int, rng: np.random.Generator) -> TokenSplit:
    """Documents that count upwards from a random token: something that can be learnt."""
    stream, starts = [], []
    for _ in range(documents):
        starts.append(len(stream))
        first, length = int(rng.integers(1, VOCABULARY)), int(rng.integers(3, 30))
        stream += [END_OF_TEXT] + [1 + (first + i) % (VOCABULARY - 1) for i in range(length)]
    stream.append(END_OF_TEXT)
    np.array(stream, dtype="<u2").tofile(directory / f"{name}.bin")
    np.array(starts, dtype="<u8").tofile(directory / f"{name}.docs")
    return TokenSplit(
        tokens=data_file(directory / f"{name}.bin"),
        starts=data_file(directory / f"{name}.docs"),
        dtype="<u2",
        count=len(stream),
        documents=documents,
        text_bytes=len(stream),
    )


def make_run(root: Path, config: Config | None = None, seed: int = 0) -> RunPaths:
    """Tokens, config.lock.toml and directories of a run."""
    paths = RunPaths(root)
    for directory in (paths.run, paths.logs, paths.tokens, paths.checkpoints):
        directory.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    splits = {name: write_split(paths.tokens, name, count, rng) for name, count in (("train", 60), ("val", 12))}
    (paths.tokens / "tokenizer.json").write_text("{}")
    np.array([0] + [1] * (VOCABULARY - 1), dtype="<u2").tofile(paths.tokens / "token_bytes")
    manifest = TokensManifest(
        shards_sha256="",
        tokenizer=data_file(paths.tokens / "tokenizer.json"),
        tokenizer_origin="test",
        vocab_size=VOCABULARY,
        end_of_text=END_OF_TEXT,
        token_bytes=data_file(paths.tokens / "token_bytes"),
        splits=splits,
        order2_bits_per_byte=2.0,
        stamp=stamp(),
    )
    schema.save(paths.tokens_manifest, manifest)
    write_lock(paths.lock, config or small_config())
    return paths


def write_plan(paths: RunPaths, attempt: int = 1, resume: Resume | None = None, **changes) -> Plan:
    plan = Plan(program="trainer", attempt=attempt, token=attempt, resume=resume)
    plan = msgspec.structs.replace(plan, **changes)
    schema.save(paths.plan, plan)
    return plan
