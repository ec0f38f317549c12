"""Loss curves of a 130m on forged text: our kernels beside mamba_ssm's, fp8 beside bf16, and whether a run comes to the same bits again.

    python -P benchmarks/loss_curves.py --work DIR [--steps 500] [--batch 16] [--length 1024] [--together 2] [--curves NAME,…]
        [--json FILE] [--svg FILE] [--dry]

Each curve is a run of the real trainer in a process of its own, `--together` of them at once on one GPU. Text: Python's standard library,
a vocabulary of 8,192. A difference between two curves is the mean over windows of 25 steps of its magnitude, from step 50 on, set against
the same of two seeds. Exactness: "native" again from its beginning, and once killed in the middle and resumed from its snapshot in memory:
losses and gradient norms must be equal bit for bit. --dry: a tiny model on the CPU, 12 steps, the reference backend.
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from adam.contract import schema
from adam.contract.config import Checkpoint, Config, Forge, Numeric, Source, Trainer
from adam.contract.config_file import write_lock
from adam.contract.durable import whole_lines
from adam.contract.lock import settle_config
from adam.contract.model import PRESETS, ModelConfig
from adam.contract.paths import RunPaths
from adam.contract.records import Plan, Resume, StepRow, decode_step
from adam.contract.snapshots import complete_snapshots

CURVES: dict[str, dict[str, Any]] = {
    "native": {"backend": "native"},
    "native, seed 1": {"backend": "native", "seed": 1},
    "mamba_ssm": {"backend": "mamba_ssm"},
    "fp8": {"backend": "native", "precision": "fp8"},
    "fp8, seed 1": {"backend": "native", "precision": "fp8", "seed": 1},
}
AGAIN, KILLED = "native, again", "native, killed and resumed"  # the same as `native`
SPREAD = ("native", "native, seed 1")
COMPARED = [("mamba_ssm", "native"), ("fp8", "native"), ("fp8, seed 1", "native, seed 1")]
WINDOW, FROM = 25, 50  # steps
COLOURS = ("#1f77b4", "#aec7e8", "#2ca02c", "#d62728", "#ff9896")
POLL_S = 0.05


class Runs:
    """Run directories below `work` that share one set of tokens."""

    def __init__(self, work: Path, arguments: argparse.Namespace) -> None:
        self.work, self.steps = work, arguments.steps
        self.base = Config(
            model=ModelConfig(d_model=32, n_layer=2, d_state=4) if arguments.dry else PRESETS["130m"],
            forge=Forge(sources=(Source(kind="stdlib"),), vocab_size=8192),
            trainer=Trainer(
                steps=arguments.steps, seq_len=arguments.length, batch_size=arguments.batch, micro_batch=arguments.batch, lr=6e-4,
                min_lr=6e-5, warmup_steps=arguments.steps // 10, eval_every=0, eval_tokens=64 * arguments.length,
                device="cpu" if arguments.dry else "cuda",
            ),
            checkpoint=Checkpoint(ram_every_steps=max(1, arguments.steps // 10)),
            numeric=Numeric(replay_minutes=0),
        )  # fmt: skip
        self.dry = arguments.dry

    def forge(self) -> None:
        data = RunPaths(self.work / "data")
        if not data.tokens_manifest.exists():
            for directory in (data.run, data.logs):
                directory.mkdir(parents=True, exist_ok=True)
            write_lock(data.lock, self.base)
            subprocess.run([sys.executable, "-P", "-m", "adam.forge", "--run", data.root], check=True)

    def made(self, name: str, changes: dict[str, Any]) -> RunPaths:
        paths = RunPaths(self.work / name.replace(", ", "-").replace(" ", "-"))
        for directory in (paths.run, paths.logs, paths.checkpoints):
            directory.mkdir(parents=True)
        paths.tokens.symlink_to(self.work / "data" / "tokens")
        changes = changes | ({"backend": "torch", "threads": 1} if self.dry else {})
        trainer = msgspec.structs.replace(self.base.trainer, **changes)
        config = msgspec.structs.replace(self.base, trainer=trainer)
        write_lock(paths.lock, settle_config(config, None, has_data=False, has_training=False)[0])
        return paths

    def train(self, name: str, changes: dict[str, Any], *, kill_at: int = 0) -> tuple[list[StepRow], float] | None:
        """(the newest row of each step, seconds) of a run, killed once it has logged step `kill_at`, if any, and resumed; None: it failed."""
        paths, began = self.made(name, changes), time.perf_counter()
        try:
            started = start(paths, Plan(program="trainer", attempt=1, token=1))
            if kill_at:
                while len(rows_of(paths)) < kill_at and started.poll() is None:
                    time.sleep(POLL_S)
                started.send_signal(signal.SIGKILL)
                started.wait()
                newest = complete_snapshots(paths)[0]
                print(f"{name}: killed at step {len(rows_of(paths))}, resumes from {newest.head.step}", flush=True)
                resume = Resume(newest.name, newest.head.step, str(newest.path))
                started = start(paths, Plan(program="trainer", attempt=2, token=2, resume=resume))
            if started.wait() != 0:
                print(f"{name}: exit {started.returncode}\n{paths.log('trainer').read_text()[-2000:]}", flush=True)
                return None
        finally:
            shutil.rmtree(paths.ram, ignore_errors=True)
        found = list(rows_of(paths).values())
        seconds = time.perf_counter() - began
        print(
            f"{name}: {len(found)} steps in {seconds:.0f} s, loss {found[-1].loss:.4f}, validation {found[-1].val_loss}",
            flush=True,
        )
        return found, seconds


def start(paths: RunPaths, plan: Plan) -> "subprocess.Popen[bytes]":
    schema.save(paths.plan, plan)
    environment = {**os.environ, "ADAM_TOKEN": str(plan.token)}
    command = [sys.executable, "-P", "-m", "adam.trainer", "--run", str(paths.root)]
    with paths.log("trainer").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def rows_of(paths: RunPaths) -> dict[int, StepRow]:
    if not paths.steps.exists():
        return {}
    rows = (decode_step(line, paths.steps) for _, line in whole_lines(paths.steps))
    return {row.step: row for row in sorted(rows, key=lambda row: (row.step, row.attempt))}


def windows(losses: list[float]) -> list[float]:
    """Means of WINDOW steps, from step FROM on; of a short curve, of single steps."""
    late = losses[FROM:] if len(losses) > FROM + WINDOW else losses
    size = WINDOW if len(losses) > FROM + WINDOW else 1
    return [statistics.fmean(late[i : i + size]) for i in range(0, len(late) - size + 1, size)]


def difference(a: list[float], b: list[float]) -> dict[str, float]:
    apart = [x - y for x, y in zip(windows(a), windows(b), strict=True)]
    return {
        "mean": statistics.fmean(map(abs, apart)),
        "most": max(map(abs, apart)),
        "signed": statistics.fmean(apart),
        "at_the_end": apart[-1],
    }


def compared(losses: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    pairs = [pair for pair in [SPREAD, *COMPARED] if all(name in losses for name in pair)]
    return {f"{a} - {b}": difference(losses[a], losses[b]) for a, b in pairs}


def same_bits(a: list[StepRow], b: list[StepRow]) -> bool:
    def numbers(rows: list[StepRow]) -> list[tuple[Any, ...]]:
        return [(row.step, row.first_sample, row.loss, row.grad_norm, row.val_loss) for row in rows]

    return numbers(a) == numbers(b)


def polyline(points: list[tuple[float, float]], colour: str) -> str:
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline fill="none" stroke="{colour}" stroke-width="1.2" points="{text}"/>'


def panel(series: dict[str, list[float]], top: float, height: float, title: str, names: list[str]) -> list[str]:
    """One chart of an SVG: a line a series over its steps, the axis of values at the left."""
    left, width = 60.0, 700.0
    values = [value for line in series.values() for value in line]
    low, high = min(values), max(values)
    span = (high - low) or 1.0

    def at(number: int, count: int, value: float) -> tuple[float, float]:
        return left + width * number / max(1, count - 1), top + height * (high - value) / span

    parts = [f'<text x="{left}" y="{top - 8}" font-weight="bold">{title}</text>']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        value = high - share * span
        y = top + share * height
        parts.append(f'<line x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3f}</text>')
    for name, line in series.items():
        points = [at(number, len(line), value) for number, value in enumerate(line)]
        parts.append(polyline(points, COLOURS[names.index(name) % len(COLOURS)]))
    return parts


def svg(losses: dict[str, list[float]]) -> str:
    """The curves, and what each is apart from `native`, in windows."""
    names = list(losses)
    apart = {
        name: [x - y for x, y in zip(windows(line), windows(losses["native"]), strict=True)]
        for name, line in losses.items()
        if name != "native"
    }
    parts = panel(losses, 40, 300, "loss, nats a token, by step", names)
    parts += panel(apart or losses, 390, 200, f"apart from native, means of {WINDOW} steps", names)
    for number, name in enumerate(names):
        y = 40 + 18 * number
        parts.append(polyline([(610, y), (635, y)], COLOURS[number % len(COLOURS)]))
        parts.append(f'<text x="642" y="{y + 4}">{name}</text>')
    head = '<svg xmlns="http://www.w3.org/2000/svg" width="790" height="610" font-family="sans-serif" font-size="11">'
    return "\n".join([head, '<rect width="790" height="610" fill="white"/>', *parts, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--work", type=Path, required=True, help="an empty directory for the runs, or one with `data` in it"
    )
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--together", type=int, default=2, help="runs at once")
    parser.add_argument("--curves", default=";".join(CURVES), help="separated by semicolons (default: all)")
    parser.add_argument("--no-exactness", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    parser.add_argument("--dry", action="store_true")
    arguments = parser.parse_args()
    wanted = {name.strip(): CURVES[name.strip()] for name in arguments.curves.split(";")}
    if arguments.dry:
        arguments.steps, arguments.batch, arguments.length = 12, 2, 32
        wanted = {name: {k: v for k, v in CURVES[name].items() if k == "seed"} for name in SPREAD}
    runs = Runs(arguments.work.resolve(), arguments)
    runs.forge()
    jobs = [(name, changes, 0) for name, changes in wanted.items()]
    if not arguments.no_exactness:
        jobs += [(AGAIN, CURVES["native"], 0), (KILLED, CURVES["native"], arguments.steps * 6 // 10)]
    with ThreadPoolExecutor(arguments.together) as pool:
        made = {name: pool.submit(runs.train, name, changes, kill_at=at) for name, changes, at in jobs}
        ended = {name: future.result() for name, future in made.items()}
    found = {name: result for name, result in ended.items() if result is not None}
    losses = {
        name: [row.loss if row.loss is not None else float("nan") for row in found[name][0]]
        for name in wanted
        if name in found
    }
    exact = {
        name: same_bits(found["native"][0], found[name][0])
        for name in (AGAIN, KILLED)
        if {name, "native"} <= set(found)
    }
    apart = compared(losses)
    for name, numbers in apart.items():
        print(f"{name:34} " + "  ".join(f"{what} {value:+.4f}" for what, value in numbers.items()))
    print(*(f"{name}: {'the same bits' if same else 'OTHER BITS'}" for name, same in exact.items()), sep="\n")
    said = {
        "config": msgspec.to_builtins(runs.base.trainer),
        "losses": losses,
        "validation": {name: found[name][0][-1].val_loss for name in found},
        "seconds": {name: seconds for name, (_, seconds) in found.items()},
        "apart": apart,
        "same_bits": exact,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(said))
    if arguments.svg and "native" in losses:
        arguments.svg.write_text(svg(losses))
    if not all(exact.values()) or len(found) < len(jobs):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
