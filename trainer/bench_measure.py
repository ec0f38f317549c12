"""What `adamctl bench` measures of training, in one process.

a model with drawn weights -> the fastest way that fits (`fit`) -> whole updates on random tokens -> a snapshot beside them
"""

import statistics
import time
from pathlib import Path
from typing import Any

import msgspec
import torch

from adam.contract.config import Config
from adam.contract.config_file import load_config
from adam.contract.model import parameter_count, resolved
from adam.contract.paths import RunPaths
from adam.contract.records import Plan
from adam.trainer.attempt import make_model
from adam.trainer.fit import settle_fit
from adam.trainer.model.lm import MambaLM
from adam.trainer.optim import apply_update, clip_gradients, make_optimizer
from adam.trainer.runtime import Runtime, set_up
from adam.trainer.snapshot import Identity, Position, Snapshots
from adam.trainer.state import trained_state

SNAPSHOTS_S = 60.0  # for two; what is not complete then is given up
POLL_S = 0.05
RESETS = 1e-3  # documents a token


class Updates:
    """Whole updates as the training loop does them, on random tokens."""

    def __init__(self, model: MambaLM, config: Config, runtime: Runtime) -> None:
        self.model, self.trainer, self.runtime = model, config.trainer, runtime
        self.optimizer = make_optimizer(model, config.trainer)
        size = (runtime.micro_batch, config.trainer.seq_len + 1)
        tokens = torch.randint(model.backbone.embedding.num_embeddings, size, device=runtime.device)
        self.inputs, self.targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        self.resets = torch.rand(self.inputs.shape, device=runtime.device) < RESETS

    def once(self, snapshots: Snapshots | None = None) -> float:
        """Seconds of one, the GPU's work included."""
        began = time.perf_counter()
        for _ in range(self.trainer.batch_size // self.runtime.micro_batch):
            with self.runtime.autocast():
                losses = self.model.loss(self.inputs, self.targets, self.resets)
            (losses.sum() / (self.trainer.batch_size * self.trainer.seq_len)).backward()
            if snapshots is not None:
                snapshots.poll()
        clip_gradients(self.model, self.optimizer, self.trainer.clip)
        if snapshots is not None:
            snapshots.before_update()
        apply_update(self.optimizer)
        self.optimizer.zero_grad(set_to_none=True)
        if self.runtime.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    def timed(self, seconds: float) -> list[float]:
        """After one to warm up, as many as take so long; two at least."""
        self.once()
        found: list[float] = []
        while len(found) < 2 or sum(found) < seconds:
            found.append(self.once())
        return found


def measure(config_path: Path, place: Path, seconds: float) -> dict[str, Any]:
    """The figures; times in seconds. Raises ConfigError and MemoryError as the start of a trainer does."""
    paths = RunPaths(place)
    for directory in (paths.run, paths.checkpoints):
        directory.mkdir(parents=True, exist_ok=True)
    config = load_config(config_path)
    plan = Plan(program="trainer", attempt=1, token=1)
    runtime = set_up(config.trainer, config.model, plan, paths.kernel_checks, {})
    shape = resolved(config.model, config.model.vocab_size)
    model = make_model(shape, config.trainer.seed, runtime)
    fit = settle_fit(paths.fit, model, config, runtime, most=0, attempt=1, beat=lambda: None)
    runtime = msgspec.structs.replace(runtime, micro_batch=fit.chosen.micro_batch)
    updates = Updates(model, config, runtime)
    found = updates.timed(seconds)
    step = statistics.median(found)
    facts = {
        "parts": runtime.parts(),
        "parameters": parameter_count(shape),
        "batch_size": config.trainer.batch_size,
        "seq_len": config.trainer.seq_len,
        "fit": msgspec.to_builtins(fit),
        "steps": len(found),
        "step_s": step,
        "tokens_per_second": config.trainer.batch_size * config.trainer.seq_len / step,
        "peak_bytes": torch.cuda.max_memory_allocated() if runtime.device == "cuda" else fit.chosen.peak,
        "failed_backends": list(runtime.failed),
    }
    return facts | snapshots_of(paths, updates, use_ram=config.checkpoint.ram == "auto")


def snapshots_of(paths: RunPaths, updates: Updates, *, use_ram: bool) -> dict[str, Any]:
    """What a snapshot of the state costs the updates beside it; None where it could not be taken, for `snapshot_trouble`."""
    size = sum(tensor.nbytes for _, tensor in trained_state(updates.model, updates.optimizer))
    identity = Identity(paths.identity, 1, 1, "", "", "", "none")
    snapshots = Snapshots(paths, updates.model, updates.optimizer, identity, use_ram=use_ram)
    until, stall, lasted = time.monotonic() + SNAPSHOTS_S, None, None
    try:
        while not snapshots.ready() and not snapshots.trouble and time.monotonic() < until:
            time.sleep(POLL_S)
        for number in (1, 2):  # the first makes the buffers
            began = time.perf_counter()
            if not snapshots.take(Position(step=number), why="ram"):
                break
            while not snapshots.poll() and time.monotonic() < until:
                updates.once(snapshots)
            if number == 2 and snapshots.poll():
                stall, lasted = snapshots.stall_s, time.perf_counter() - began
        return {
            "state_bytes": size,
            "snapshot_tier": "ram" if snapshots.in_ram else "disk",
            "snapshot_stall_s": stall,
            "snapshot_s": lasted,
            "snapshot_trouble": snapshots.trouble,
        }
    finally:
        snapshots.finish()
        snapshots.close()
