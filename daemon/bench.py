"""`adamctl bench`: what this machine does, in about two minutes: speed, memory, snapshots, disk, and how long training will take.

choose a configuration -> `adam.trainer.bench` in a process of its own -> write to the disk -> a report (`daemon/bench_words.py`)
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from adam.contract.config import Config
from adam.contract.config_file import load_config, to_toml
from adam.contract.durable import free_bytes
from adam.contract.errors import AdamError, TimeoutExpired, UsageError
from adam.contract.model import PRESETS, parameter_count, resolved
from adam.contract.paths import RunPaths
from adam.daemon.bench_words import facts_of, lines
from adam.daemon.checks import tokenizer_size
from adam.daemon.doctor_machine import ask
from adam.daemon.doctor_run import existing
from adam.daemon.presets import preset
from adam.daemon.processes import refuse_if_running
from adam.daemon.run_of import run_paths

TIMEOUT_S = 300.0
STATE_AND_MORE = 24  # bytes a parameter: weights, gradients, moments, and half of that for what a sample keeps
BLOCK = b"\xa5" * (16 << 20)
LARGEST_FILE = 1 << 30  # written to the disk, in so many seconds at most
DISK_S = 5.0
ASK_MEMORY = """
import json, pynvml
pynvml.nvmlInit()
print(json.dumps({"bytes": pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).total}))
"""


def run(arguments: argparse.Namespace) -> int:
    """Measure and print. Raises BusyError while the run trains, and what the trainer says where it can't train."""
    paths = run_paths(arguments.run)
    refuse_if_running(paths)
    config = to_measure(paths, arguments.preset, arguments.seconds)
    place = Path(tempfile.mkdtemp(prefix=".adam-bench-", dir=existing(paths.checkpoints)))
    try:
        found = measured(config, place, arguments.seconds)
        facts = facts_of(found, config, disk_speed(place))
    finally:
        shutil.rmtree(RunPaths(place).ram, ignore_errors=True)
        shutil.rmtree(place, ignore_errors=True)
    print(json.dumps(facts, indent=2) if arguments.json else "\n".join(lines(facts)))
    return 0


def to_measure(paths: RunPaths, named: str | None, seconds: float) -> Config:
    """The run's configuration, or that of a preset: the named one, else the largest that this machine's GPU holds."""
    if seconds <= 0:
        raise UsageError(f"--seconds {seconds:g}: must be above 0")
    source = paths.lock if paths.lock.exists() else paths.config
    config = load_config(source) if source.exists() and not named else preset(named or largest(gpu_bytes()))
    ids = config.model.vocab_size or tokenizer_size(paths, config) or config.forge.vocab_size
    return msgspec.structs.replace(
        config,
        model=msgspec.structs.replace(config.model, vocab_size=ids),
        trainer=msgspec.structs.replace(
            config.trainer, fit="auto", gpus=1
        ),  # what several do beside one another is no sum
    )


def gpu_bytes() -> int:
    """The memory of the first GPU; 0 where there is none."""
    return int(ask(ASK_MEMORY).get("bytes", 0))


def largest(memory: int) -> str:
    """The largest preset of Mamba-1 that can be trained in so much memory; the demo's on a CPU."""
    sizes = {name: parameter_count(resolved(shape, 4096)) for name, shape in PRESETS.items() if shape.arch == "mamba1"}
    fitting = [name for name, size in sizes.items() if size * STATE_AND_MORE <= memory]
    return max(fitting, key=lambda name: sizes[name], default="tiny")


def measured(config: Config, place: Path, seconds: float) -> dict[str, Any]:
    """What `adam.trainer.bench` says. Raises AdamError with its last line, and its exit code."""
    path = place / "adam.toml"
    path.write_text(to_toml(config))
    command = [sys.executable, "-P", "-m", "adam.trainer.bench", "--config", str(path), "--place", str(place)]
    command += ["--seconds", str(seconds)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S + seconds,
            env={**os.environ, "PYTHONSAFEPATH": "1"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutExpired(
            f"the trainer has not come to an end in {TIMEOUT_S + seconds:.0f} s", "see `adamctl doctor`, `nvidia-smi`"
        ) from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines() or [f"exit {done.returncode}"]
        raise Failed(said[-1].removeprefix("adam.trainer.bench: "), done.returncode)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


class Failed(AdamError):
    """The trainer's own words, and its exit code."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(what)
        self.exit_code = code if code > 0 else 1  # type: ignore[assignment]


def disk_speed(place: Path) -> float | None:
    """Bytes a second of a file that is written and made durable; None where there is no room to try."""
    if free_bytes(place) < 2 * LARGEST_FILE:
        return None
    written, began = 0, time.perf_counter()
    with (place / "speed").open("wb", buffering=0) as file:
        while written < LARGEST_FILE and time.perf_counter() - began < DISK_S:
            written += file.write(BLOCK)
        os.fsync(file.fileno())
    return written / (time.perf_counter() - began)
