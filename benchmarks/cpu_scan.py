"""The C++ operators of CPUs beside the reference: the scan, the convolution, and a whole training step.

    python -P benchmarks/cpu_scan.py [--threads 2] [--rounds 5] [--shapes demo,768,2048] [--json FILE]

Forward and backward on random data, fp32, as the model calls them. Both sides take turns in one process, a round each, after one to warm
up; medians of wall-clock time, and of the process's CPU time, which a shared machine disturbs less. The step is the demo's (hidden 256,
4 layers, batch 8 x 256), its optimizer included.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from adam.trainer.host import prepare

prepare()  # before torch is imported, as the trainer does

import torch  # noqa: E402

from adam.contract.config import Trainer  # noqa: E402
from adam.contract.model import ModelConfig, resolved  # noqa: E402
from adam.trainer.model.lm import MambaLM  # noqa: E402
from adam.trainer.ops.cpu import CpuOps  # noqa: E402
from adam.trainer.ops.interface import Ops  # noqa: E402
from adam.trainer.ops.reference import ReferenceOps  # noqa: E402
from adam.trainer.optim import make_optimizer  # noqa: E402

VOCABULARY, TAPS = 1024, 4
SIDES = ("C++", "reference")
MODEL = resolved(ModelConfig(d_model=256, n_layer=4), VOCABULARY)
SHAPES = {  # sequences, steps, channels, states
    "demo": (8, 256, 512, 16),
    "768": (2, 512, 768, 16),
    "1536": (1, 1024, 1536, 16),
    "2048": (1, 2048, 2048, 16),
}
Work = Callable[[Ops], Callable[[], None]]


def scan_of(batch: int, length: int, channels: int, states: int) -> Work:
    sequence, each = (batch, length, channels), (batch, length, states)
    u, delta, z = (torch.randn(*sequence) for _ in range(3))
    A, B, C = -torch.rand(channels, states) * 16, torch.randn(*each), torch.randn(*each)
    operands = [
        tensor.requires_grad_() for tensor in (u, delta, A, B, C, torch.randn(channels), z, torch.randn(channels))
    ]
    resets, dout = torch.rand(batch, length) < 0.005, torch.randn(*sequence)

    def both_ways(ops: Ops) -> Callable[[], None]:
        return lambda: torch.autograd.grad(ops.selective_scan(*operands, resets), operands, dout) and None

    return both_ways


def convolution_of(batch: int, length: int, channels: int, _: int) -> Work:
    shapes = (batch, length, channels), (channels, TAPS), (channels,)
    operands = [torch.randn(*shape).requires_grad_() for shape in shapes]
    resets, dy = torch.rand(batch, length) < 0.005, torch.randn(*shapes[0])

    def both_ways(ops: Ops) -> Callable[[], None]:
        return lambda: torch.autograd.grad(ops.causal_conv1d(*operands, resets), operands, dy) and None

    return both_ways


def step_of(batch: int, length: int) -> Work:
    def whole(ops: Ops) -> Callable[[], None]:
        torch.manual_seed(0)
        model = MambaLM(MODEL, ops)
        optimizer = make_optimizer(model, Trainer(decay_steps=1))
        resets, tokens = torch.rand(batch, length) < 0.005, torch.randint(0, VOCABULARY, (batch, length + 1))

        def step() -> None:
            model.loss(tokens[:, :-1], tokens[:, 1:], resets).mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return step

    return whole


def measured(work: Work, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Wall-clock and CPU seconds of each side's rounds."""
    sides = dict(zip(SIDES, (work(CpuOps()), work(ReferenceOps())), strict=True))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            began = time.perf_counter(), time.process_time()
            run()
            if number:
                times[name].append((time.perf_counter() - began[0], time.process_time() - began[1]))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shapes", default=",".join(SHAPES), help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all times")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    works: dict[str, Work] = {}
    for name in arguments.shapes.split(","):
        shape = SHAPES[name]
        text = " x ".join(map(str, shape))
        works[f"scan {text}"] = scan_of(*shape)
        works[f"convolution {text}"] = convolution_of(*shape)
    batch, length, *_ = SHAPES["demo"]
    works[f"training step {batch} x {length}"] = step_of(batch, length)
    print(
        f"torch {torch.__version__}, {arguments.threads} threads, {arguments.rounds} rounds, medians of forward and backward"
    )
    found = {}
    for name, work in works.items():
        found[name] = measured(work, arguments.rounds)
        ours, theirs = (
            [1e3 * statistics.median(each) for each in zip(*found[name][side], strict=True)] for side in SIDES
        )
        print(
            f"{name:32}  C++ {ours[0]:9.2f} ms ({ours[1]:8.2f} of CPU)  reference {theirs[0]:9.2f} ms ({theirs[1]:8.2f})  "
            f"{theirs[0] / ours[0]:6.2f} x ({theirs[1] / ours[1]:.2f} x)",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
