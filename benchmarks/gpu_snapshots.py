"""What a snapshot costs a GPU that trains the 2.7B model, and how soon a new process has all of it back.

    python -P benchmarks/gpu_snapshots.py [--preset 2.7b] [--pairs 8] [--recoveries 5] [--micro-steps 4] [--place DIR]

The state is real (weights, both moments, AdamW's own update); forward and backward are stood in for by matrix products of about half
a second a step (in four micro-steps; --micro-steps 16 is an update of two seconds), with random gradients, so that this measures
the snapshot and not a backend. Blocks of steps with one snapshot and blocks without are interleaved; the stall is the difference of
their wall-clock times. Three ways: through a copy on the device, through two small buffers, and none (the noise of the method).
Then, for each recovery, a new process restores the newest snapshot from shared memory, does one update and compares the checksum
of its state with that of the writer. Needs an NVIDIA GPU with 120 GB, and 100 GB of memory.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from adam.trainer.host import prepare

prepare()  # before torch is imported, as the trainer does
STARTED = time.perf_counter()

import torch  # noqa: E402

from adam.contract.config import Trainer  # noqa: E402
from adam.contract.model import PRESETS, resolved  # noqa: E402
from adam.contract.paths import RunPaths  # noqa: E402
from adam.contract.snapshots import complete_snapshots  # noqa: E402
from adam.trainer import copying  # noqa: E402
from adam.trainer.model.lm import MambaLM  # noqa: E402
from adam.trainer.ops.reference import ReferenceOps  # noqa: E402
from adam.trainer.optim import apply_update, make_optimizer  # noqa: E402
from adam.trainer.restore import restore  # noqa: E402
from adam.trainer.snapshot import Identity, Position, Snapshots  # noqa: E402
from adam.trainer.state import trained_state  # noqa: E402
from adam.trainer.sums import all_sums  # noqa: E402
from adam.trainer.window import Window  # noqa: E402

BLOCK = 4  # steps
PRODUCTS = 100  # a micro-step: of 16384 x 2560 x 10240, about 1.2 ms each


class Work:
    """A model, its optimizer, and something that keeps the GPU as busy as training would."""

    def __init__(self, preset: str, micro_steps: int) -> None:
        self.micro_steps = micro_steps
        shape = resolved(PRESETS[preset], 50_280)
        torch.manual_seed(0)
        with torch.device("cuda"):
            self.model = MambaLM(shape, ReferenceOps())
        self.optimizer = make_optimizer(self.model, Trainer())
        self.window = Window("cuda")
        self.a = torch.randn(16384, 2560, device="cuda", dtype=torch.bfloat16)
        self.b = torch.randn(2560, 10240, device="cuda", dtype=torch.bfloat16)
        self.out = torch.empty(16384, 10240, device="cuda", dtype=torch.bfloat16)

    def set_gradients(self) -> None:
        generator = torch.Generator("cuda").manual_seed(1)
        for parameter in self.model.parameters():
            parameter.grad = torch.randn(parameter.shape, device="cuda", generator=generator) * 1e-3

    def step(self, snapshots: Snapshots | None) -> None:
        for _ in range(self.micro_steps):
            for _ in range(PRODUCTS):
                torch.mm(self.a, self.b, out=self.out)
            if snapshots is not None:
                snapshots.poll()
        if snapshots is not None:
            snapshots.before_update()
        apply_update(self.optimizer)
        self.window.read(self.out[0, :2].double())  # as loss and norm are read in each update

    def digest(self) -> str:
        return "".join(all_sums([tensor for _, tensor in trained_state(self.model, self.optimizer)]))


def identity(paths: RunPaths) -> Identity:
    return Identity(
        run=paths.identity, attempt=1, token=1, parent="", fingerprint="", config_digest="", data_digest="none"
    )


def block(work: Work, snapshots: Snapshots, number: int, *, save: bool) -> tuple[float, float]:
    """(seconds of BLOCK steps, the first with a snapshot where `save`; seconds until the call returned)."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    if save and not snapshots.take(Position(step=number), why="ram"):
        raise SystemExit("a snapshot could not be taken")
    calls = time.perf_counter() - began
    for _ in range(BLOCK):
        work.step(snapshots)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    while not snapshots.poll():
        time.sleep(0.01)
    return seconds, calls


def stalls(work: Work, snapshots: Snapshots, pairs: int, name: str, *, save: bool = True) -> None:
    found, plain, calls, taken_for = [], [], [], []
    block(work, snapshots, 0, save=save)  # buffers are made
    for number in range(1, pairs + 1):
        without, _ = block(work, snapshots, number, save=False)
        with_one, call = block(work, snapshots, number, save=save)
        found.append(1000 * (with_one - without))
        plain.append(without)
        calls.append(1000 * call)
        taken_for.append(1000 * snapshots.stall_s)
    step = statistics.median(plain) / BLOCK
    print(
        f"{name:34}: median {statistics.median(found):7.1f} ms, from {min(found):.1f} to {max(found):.1f} ({pairs} pairs; "
        f"a step takes {1000 * step:.0f} ms, the call {statistics.median(calls):.1f} ms, "
        f"the trainer's pace counts {statistics.median(taken_for):.1f} ms; one a minute costs {statistics.median(found) / 600:.3f} %)",
        flush=True,
    )


def measure(arguments: argparse.Namespace, paths: RunPaths) -> None:
    work = Work(arguments.preset, arguments.micro_steps)
    work.set_gradients()
    work.step(None)
    began = time.perf_counter()
    snapshots = Snapshots(paths, work.model, work.optimizer, identity(paths), use_ram=True)
    while not snapshots.ready():
        time.sleep(0.1)
    if not snapshots.in_ram:
        raise SystemExit(f"no room in shared memory: {paths.staging_report.read_text()}")
    size = sum(tensor.nbytes for _, tensor in trained_state(work.model, work.optimizer))
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, state {size / 1e9:.1f} GB", flush=True)
    print(f"slots made, beside training: {time.perf_counter() - began:.1f} s; {paths.staging_report.read_text()}")
    for _ in range(3):
        work.step(None)
    stalls(work, snapshots, arguments.pairs, "nothing (noise of the method)", save=False)
    stalls(work, snapshots, arguments.pairs, "copy on the device")
    snapshots._copier = None
    torch.cuda.empty_cache()
    copying.MARGIN_BYTES = 1 << 50
    stalls(work, snapshots, arguments.pairs, "through 512 MB (no device memory)")
    if not snapshots.take(Position(step=1000), why="ram"):
        raise SystemExit("the last snapshot could not be taken")
    began = time.perf_counter()
    while not snapshots.poll():
        time.sleep(0.001)
    print(f"drained with nothing beside it: {time.perf_counter() - began:.2f} s")
    (paths.root / "digest").write_text(work.digest())
    snapshots.close()


def recover(arguments: argparse.Namespace, paths: RunPaths) -> None:
    imported = time.perf_counter() - STARTED
    torch.cuda.init()
    context = time.perf_counter() - STARTED
    work = Work(arguments.preset, arguments.micro_steps)
    made = time.perf_counter() - STARTED
    slot = complete_snapshots(paths)[0].path
    restore(slot, work.model, work.optimizer, identity(paths), committed=False)
    torch.cuda.synchronize()
    restored = time.perf_counter() - STARTED
    same = work.digest() == (paths.root / "digest").read_text()
    checked = time.perf_counter() - STARTED
    work.set_gradients()
    torch.cuda.synchronize()
    gradients = time.perf_counter() - STARTED - (checked - restored)
    work.step(None)
    torch.cuda.synchronize()
    first = time.perf_counter() - STARTED - (checked - restored)
    stages = {"torch": imported, "context": context, "model": made, "restored": restored}
    stages |= {"gradients": gradients, "first update": first}
    print(json.dumps({name: round(seconds, 2) for name, seconds in stages.items()} | {"same": same}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="2.7b", help="the model")
    parser.add_argument("--pairs", type=int, default=8, help="pairs of blocks for each way")
    parser.add_argument("--micro-steps", type=int, default=4, help="in a step: 0.13 s each on an H200")
    parser.add_argument("--recoveries", type=int, default=5, help="new processes that restore the snapshot")
    parser.add_argument(
        "--place", type=Path, help="of the run directory; a temporary one is made where it is not named"
    )
    parser.add_argument("--recover", action="store_true", help="be one of the new processes")
    arguments = parser.parse_args()
    torch.set_deterministic_debug_mode("error")
    place = arguments.place or Path(tempfile.mkdtemp())
    paths = RunPaths(place)
    if arguments.recover:
        recover(arguments, paths)
        return
    paths.run.mkdir(parents=True)
    paths.checkpoints.mkdir()
    try:
        measure(arguments, paths)
        torch.cuda.empty_cache()
        command = [sys.executable, "-P", __file__, "--recover", "--preset", arguments.preset, "--place", str(place)]
        release_gpu_and_recover(command, arguments.recoveries)
    finally:
        shutil.rmtree(paths.ram, ignore_errors=True)


def release_gpu_and_recover(command: list[str], times: int) -> None:
    found = []
    for _ in range(times):
        began = time.perf_counter()
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "PYTHONSAFEPATH": "1"}, check=False
        )
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        stages = json.loads(done.stdout.splitlines()[-1])
        found.append((time.perf_counter() - began, stages))
        print(f"  {found[-1][0]:.2f} s  {stages}", flush=True)
    middle = statistics.median(stages["first update"] for _, stages in found)
    same = all(stages["same"] for _, stages in found)
    print(f"from `import torch` to the first update: median {middle:.2f} s; all states the same: {same}")


if __name__ == "__main__":
    main()
