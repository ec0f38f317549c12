"""One, two and four GPUs: tokens per second and efficiency of the real trainer, snapshots off and on; the same losses; resumed on fewer.

    python -P benchmarks/gpus.py --work DIR [--gpus 1,2,4] [--preset 2.7b] [--micro-batch 4] [--length 2048] [--steps 24] [--rounds 2]
        [--parts speed,losses,resume] [--json FILE] [--dry]

speed: each count trains --micro-batch samples a GPU and update, on random tokens; `--rounds` runs of each (count, snapshots off or on), in
turn, so that what the machine does meanwhile meets all alike. Of a run, the first six updates are left out; medians of updates. Efficiency:
tokens per second of N GPUs over N times those of one, at the same setting. With snapshots: one in memory every --every updates.
losses: one batch for all counts (--micro-batch for each of the most GPUs), ten updates; the largest relative difference from one GPU.
resume: trained on the most GPUs, killed, resumed from its snapshot in memory on half of them, killed, on half of these …; the same
differences. --dry: a tiny model on the CPU, gloo ranks, a few updates: shows that it works, its speeds say nothing.

On the H200 machine (Python 3.12 and torch 2.11 are there; wheels of msgspec, structlog and tomli-w for cp312 in the carried folder `wheels`):

    device call, kind nvidia-h200-x4, timeout_s 600, carry ["wheels"]:
    python3 -m pip install -q --no-index --no-deps --target /tmp/site wheels/*.whl
    export PYTHONPATH=/tmp/site:$PWD/.ide PYTHONSAFEPATH=1
    timeout 560 python3 -P benchmarks/gpus.py --work /tmp/gpus --micro-batch 4 --json $OUT/gpus.json
    (nvidia-h200-x2: with --gpus 1,2; where minutes are few: --rounds 1 --parts speed first)
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from adam.contract import schema
from adam.contract.clock import stamp
from adam.contract.config import Checkpoint, Config, Numeric, Trainer
from adam.contract.config_file import write_lock
from adam.contract.durable import sha256_file, whole_lines
from adam.contract.lock import settle_config
from adam.contract.model import PRESETS, ModelConfig
from adam.contract.paths import RunPaths
from adam.contract.records import Plan, Resume, StepRow, decode_step
from adam.contract.shards import DataFile, TokensManifest, TokenSplit
from adam.contract.snapshots import complete_snapshots

VOCABULARY, DOCUMENT = 50_280, 1000  # tokens of a document
WARM = 6  # updates
COMPARED = 10
POLL_S, LONGEST_S = 0.1, 240.0
ENDLESS = 1_000_000


class Bench:
    """Runs below `work` that share one set of random tokens."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.work, self.dry = Path(arguments.work).absolute(), arguments.dry
        self.micro_batch, self.every = arguments.micro_batch, arguments.every
        model = ModelConfig(d_model=32, n_layer=2, d_state=4) if self.dry else PRESETS[arguments.preset]
        self.vocabulary = 64 if self.dry else VOCABULARY
        self.config = Config(
            model=model,
            trainer=Trainer(
                steps=ENDLESS, seq_len=arguments.length, lr=1e-4, warmup_steps=10, decay_steps=ENDLESS, eval_every=0,
                eval_tokens=arguments.length, device="cpu" if self.dry else "cuda", threads=1 if self.dry else 0,
            ),
            numeric=Numeric(replay_minutes=0),
        )  # fmt: skip
        self.made = 0

    def make_tokens(self) -> None:
        """Random ids in documents of a thousand."""
        directory = self.work / "tokens"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        rng = np.random.default_rng(0)
        counts = {"train": 400_001 if self.dry else 16_000_001, "val": 8 * self.config.trainer.seq_len + 1}
        splits = {name: self._split(directory, name, count, rng) for name, count in counts.items()}
        (directory / "tokenizer.json").write_text("{}")
        np.ones(self.vocabulary, dtype="<u2").tofile(directory / "token_bytes")
        manifest = TokensManifest(
            shards_sha256="", tokenizer=_file(directory / "tokenizer.json"), tokenizer_origin="random",
            vocab_size=self.vocabulary, end_of_text=0, token_bytes=_file(directory / "token_bytes"), splits=splits,
            order2_bits_per_byte=0.0, stamp=stamp(),
        )  # fmt: skip
        schema.save(directory / "manifest.json", manifest)

    def _split(self, directory: Path, name: str, count: int, rng: np.random.Generator) -> TokenSplit:
        starts = np.arange(0, count - 1, DOCUMENT, dtype="<u8")
        stream = rng.integers(1, self.vocabulary, count).astype("<u2")
        stream[starts.astype(np.int64)] = stream[-1] = 0
        stream.tofile(directory / f"{name}.bin")
        starts.tofile(directory / f"{name}.docs")
        return TokenSplit(
            tokens=_file(directory / f"{name}.bin"), starts=_file(directory / f"{name}.docs"), dtype="<u2", count=count,
            documents=len(starts), text_bytes=count,
        )  # fmt: skip

    def run_of(self, gpus: int, batch: int, *, every: int) -> RunPaths:
        """A new run of so many GPUs; every: updates between two snapshots in memory, 0: none."""
        self.made += 1
        paths = RunPaths(self.work / f"run-{self.made}-{gpus}")
        for directory in (paths.run, paths.logs, paths.checkpoints):
            directory.mkdir(parents=True)
        paths.tokens.symlink_to(self.work / "tokens")
        self.settle(paths, gpus, batch, every)
        return paths

    def settle(self, paths: RunPaths, gpus: int, batch: int, every: int) -> None:
        trainer = msgspec.structs.replace(
            self.config.trainer, gpus=gpus, batch_size=batch, micro_batch=self.micro_batch
        )
        # Without a tier in memory snapshots are only taken when the watchdog asks, and none runs.
        checkpoint = Checkpoint(ram="auto" if every else "off", ram_every_steps=every)
        config = msgspec.structs.replace(self.config, trainer=trainer, checkpoint=checkpoint)
        write_lock(paths.lock, settle_config(config, None, has_data=False, has_training=False)[0])


def _file(path: Path) -> DataFile:
    return DataFile(path.name, path.stat().st_size, sha256_file(path))


def train(paths: RunPaths, until: int, attempt: int = 1, resume: Resume | None = None) -> list[StepRow]:
    """The rows of an attempt that is killed when step `until` is logged. Raises RuntimeError where it ends before."""
    schema.save(paths.plan, Plan(program="trainer", attempt=attempt, token=attempt, resume=resume))
    command = [sys.executable, "-P", "-m", "adam.trainer", "--run", str(paths.root)]
    began = time.monotonic()
    with paths.log("trainer").open("ab") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "ADAM_TOKEN": str(attempt)}, process_group=0
        )
    try:
        while not (found := rows_of(paths, attempt)) or found[-1].step < until:
            if process.poll() is not None or time.monotonic() - began > LONGEST_S:
                log_end = paths.log("trainer").read_text()[-3000:]
                raise RuntimeError(f"{paths.root.name}: {len(found)} steps, exit {process.poll()}\n{log_end}")
            time.sleep(POLL_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return found


def rows_of(paths: RunPaths, attempt: int) -> list[StepRow]:
    if not paths.steps.exists():
        return []
    rows = (decode_step(line, paths.steps) for _, line in whole_lines(paths.steps))
    return [row for row in rows if row.attempt == attempt]


def speeds(bench: Bench, counts: list[int], steps: int, rounds: int) -> list[dict[str, Any]]:
    """A line for each count and setting: tokens per second, and the efficiency."""
    tokens = bench.micro_batch * bench.config.trainer.seq_len
    found: dict[tuple[int, bool], list[float]] = {}
    for number in range(rounds):
        for count in counts if number % 2 == 0 else reversed(counts):
            for saving in (False, True):
                paths = bench.run_of(count, count * bench.micro_batch, every=bench.every if saving else 0)
                rows = train(paths, WARM + steps)
                shutil.rmtree(paths.ram, ignore_errors=True)
                # The wall clock between rows: what a snapshot costs between two updates counts too.
                walls = [row.boottime for row in rows[WARM - 1 : WARM + steps]]
                speed = count * tokens * (len(walls) - 1) / (walls[-1] - walls[0])
                found.setdefault((count, saving), []).append(speed)
                step = statistics.median(row.step_s for row in rows[WARM:])
                print(
                    f"{count} GPUs, snapshots {'on' if saving else 'off'}: {speed:,.0f} tokens/s, {1e3 * step:.1f} ms",
                    flush=True,
                )
    lines = []
    for (count, saving), each in sorted(found.items()):
        speed = statistics.median(each)
        alone = statistics.median(found[1, saving]) if (1, saving) in found else None
        efficiency = speed / (count * alone) if alone else None
        lines.append({"gpus": count, "snapshots": saving, "tokens_s": speed, "each": each, "efficiency": efficiency})
    return lines


def differences(ours: list[StepRow], theirs: list[StepRow]) -> float:
    """The largest relative difference of a loss or a gradient's norm, step by step."""
    other = {row.step: row for row in theirs}
    pairs = [
        (getattr(row, name), getattr(other[row.step], name))
        for row in ours
        if row.step in other
        for name in ("loss", "grad_norm")
    ]
    return max(abs(a - b) / abs(b) for a, b in pairs)


def losses(bench: Bench, counts: list[int]) -> tuple[list[StepRow], dict[str, float]]:
    """(the rows on the fewest GPUs, how far the others' are from them), of one batch size."""
    batch = max(counts) * bench.micro_batch
    rows = {count: train(bench.run_of(count, batch, every=0), 3 * COMPARED) for count in counts}
    first = rows[counts[0]]
    return first, {f"{count} GPUs": differences(rows[count], first) for count in counts[1:]}


def resumed(bench: Bench, counts: list[int], undisturbed: list[StepRow]) -> list[dict[str, Any]]:
    """Trained on the most GPUs, then on fewer and fewer, from the snapshot in memory each time."""
    batch = max(counts) * bench.micro_batch
    descending = sorted(counts, reverse=True)
    paths, resume, lines = bench.run_of(descending[0], batch, every=2), None, []
    for attempt, count in enumerate(descending, 1):
        bench.settle(paths, count, batch, 2)
        rows = train(paths, COMPARED * attempt, attempt, resume)
        newest = complete_snapshots(paths)[0]
        lines.append(
            {
                "gpus": count,
                "from_step": rows[0].step - 1,
                "to_step": rows[-1].step,
                "difference": differences(rows, undisturbed),
            }
        )
        resume = Resume(newest.name, newest.head.step, str(newest.path))
    shutil.rmtree(paths.ram, ignore_errors=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, help="a directory for runs and tokens")
    parser.add_argument("--gpus", default="1,2,4")
    parser.add_argument("--preset", default="2.7b", choices=sorted(PRESETS))
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=24, help="updates of a run that are measured")
    parser.add_argument("--every", type=int, default=8, help="updates between two snapshots, where there are any")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--parts", default="speed,losses,resume")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--dry", action="store_true", help="a tiny model on the CPU")
    arguments = parser.parse_args()
    if arguments.dry:
        arguments.length, arguments.micro_batch = 64, 1
    counts = sorted(int(part) for part in arguments.gpus.split(","))
    bench = Bench(arguments)
    bench.make_tokens()
    parts, found = arguments.parts.split(","), dict[str, Any]()
    if "speed" in parts:
        found["speed"] = speeds(bench, counts, arguments.steps, arguments.rounds)
    if "losses" in parts or "resume" in parts:
        undisturbed, found["losses"] = losses(bench, counts)
    if "resume" in parts:
        found["resume"] = resumed(bench, counts, undisturbed)
    print(json.dumps(found, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
