"""Phases through the forge and the trainer: each batch has the text of its phase, whatever was killed in between."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from two_phases import TWO_PHASES, phase_of, write_texts

from adam.contract import schema
from adam.contract.config_file import load_config, write_lock
from adam.contract.curriculum import first_steps, phase_samples
from adam.contract.durable import whole_lines
from adam.contract.lock import settle_config
from adam.contract.paths import RunPaths
from adam.contract.records import Plan, Resume, decode_step
from adam.contract.shards import TokensManifest, load_shards, load_tokens
from adam.contract.snapshots import complete_snapshots
from adam.trainer.attempt import run_attempt
from adam.trainer.data import Batch, Windows

STEPS, BATCH, SEQ_LEN = 70, 4, 64


@pytest.fixture(scope="module")
def forged(tmp_path_factory) -> RunPaths:
    """A run with tokens, not trained yet."""
    root = tmp_path_factory.mktemp("forged")
    write_texts(root / "text", documents=30, words=(10, 40))
    return forge(root / "run", root / "text")


def forge(root: Path, text: Path) -> RunPaths:
    paths = RunPaths(root)
    root.mkdir()
    paths.config.write_text(TWO_PHASES.format(text=text, steps=STEPS))
    command = [sys.executable, "-P", "-m", "adam.forge", "--run", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", timeout=100)
    assert done.returncode == 0, done.stderr
    return paths


def manifest(paths: RunPaths) -> TokensManifest:
    found = load_tokens(paths)
    assert found is not None
    return found


def new_run(root: Path, forged: RunPaths) -> RunPaths:
    """An untrained run with the data of another."""
    paths = RunPaths(root)
    for directory in (paths.run, paths.logs, paths.checkpoints):
        directory.mkdir(parents=True)
    paths.tokens.symlink_to(forged.tokens)
    write_lock(paths.lock, settle_config(load_config(forged.config), None, has_data=False, has_training=False)[0])
    return paths


@pytest.fixture
def seen(monkeypatch, forged: RunPaths) -> Iterator[list[str]]:
    """The phase of each train sample that is drawn, by its letters."""
    tokenizer = Tokenizer.from_file(str(forged.tokens / "tokenizer.json"))
    drawn: list[str] = []
    read, samples_of_train = Windows.batch, sum(phase.samples for phase in phase_samples(manifest(forged), SEQ_LEN))

    def watched(self: Windows, samples: list[int]) -> Batch:
        batch = read(self, samples)
        if self.count == samples_of_train:
            drawn.extend(phase_of(tokenizer.decode(row)) for row in batch.tokens.tolist())
        return batch

    monkeypatch.setattr(Windows, "batch", watched)
    return drawn


def test_the_manifest_says_where_each_phase_begins(forged: RunPaths) -> None:
    tokens, shards = manifest(forged), load_shards(forged)
    assert shards is not None
    calm, wild = tokens.phases
    assert (calm.name, calm.first, wild.name) == ("calm", 0, "wild")
    split = tokens.splits["train"]
    stream = (forged.tokens / split.tokens.name).read_bytes()
    ids = [int.from_bytes(stream[at : at + 2], "little") for at in range(0, len(stream), 2)]
    assert ids[wild.first] == tokens.end_of_text
    assert ids[: wild.first].count(tokens.end_of_text) == shards.phases[1].starts["train"]
    tokenizer = Tokenizer.from_file(str(forged.tokens / "tokenizer.json"))
    assert phase_of(tokenizer.decode(ids[: wild.first])) == "early"
    assert phase_of(tokenizer.decode(ids[wild.first :])) == "late"


def test_each_batch_has_the_text_of_its_phase_in_every_epoch(tmp_path, forged: RunPaths, seen: list[str]) -> None:
    tokens = manifest(forged)
    calm, wild = phase_samples(tokens, SEQ_LEN)
    size = calm.samples + wild.samples
    assert 2 * size < STEPS * BATCH, "the run has two epochs and more"
    assert min(calm.samples, wild.samples) > 2 * BATCH
    paths = new_run(tmp_path / "run", forged)
    schema.save(paths.plan, Plan(program="trainer", attempt=1, token=1))
    assert run_attempt(paths.root, 1, lambda: False)
    assert len(seen) == STEPS * BATCH
    for epoch in (seen[:size], seen[size : 2 * size]):
        assert epoch[: calm.samples].count("early") >= calm.samples - 1  # one sample may straddle
        assert "late" not in epoch[: calm.samples]
        assert set(epoch[calm.samples :]) == {"late"}
    (_, one), (_, other) = first_steps(tokens, SEQ_LEN, BATCH)
    assert one == 1
    assert "late" not in seen[: (other - 1) * BATCH]
    assert "late" in seen[(other - 1) * BATCH : other * BATCH]


def test_stopped_around_a_boundary_and_resumed_gives_the_same_bits(tmp_path, forged: RunPaths) -> None:
    (_, boundary) = first_steps(manifest(forged), SEQ_LEN, BATCH)[1]
    whole, parts = new_run(tmp_path / "whole", forged), new_run(tmp_path / "parts", forged)
    schema.save(whole.plan, Plan(program="trainer", attempt=1, token=1))
    run_attempt(whole.root, 1, lambda: False)
    resume, attempt, micro_steps = None, 0, 2 * (boundary - 2) + 1
    while True:
        attempt += 1
        schema.save(parts.plan, Plan(program="trainer", attempt=attempt, token=attempt, resume=resume))
        left = iter(range(micro_steps if attempt < 5 else 10_000))
        if run_attempt(parts.root, attempt, lambda left=left: next(left, None) is None):
            break
        snapshot = complete_snapshots(parts)[0]
        resume = Resume(snapshot.name, snapshot.head.step, str(snapshot.path))
        micro_steps = 3  # in the middle of the step behind
    assert resume is not None and resume.step >= boundary
    assert results(parts) == results(whole)


def results(paths: RunPaths) -> list[tuple[object, ...]]:
    rows = [decode_step(line, paths.steps) for _, line in whole_lines(paths.steps)]
    return [(row.step, row.loss, row.grad_norm, row.val_loss, row.first_sample) for row in rows]
