"""Training speed of the reference backend on a CPU: a whole step, and its scan beside a plain loop through autograd.

    python benchmarks/cpu_training.py [--threads 2] [--rounds 5]

Both scans run interleaved in this process, forward and backward, on random data, after one warm-up round each; medians.
"""

import argparse
import platform
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
from adam.trainer.ops.reference import ReferenceOps  # noqa: E402
from adam.trainer.ops.scan import scan  # noqa: E402
from adam.trainer.optim import make_optimizer  # noqa: E402

BATCH, LENGTH, VOCABULARY = 8, 256, 1024  # the size of docs/benchmarks.md
SHAPE = resolved(ModelConfig(d_model=256, n_layer=4), VOCABULARY)


def seconds(work: Callable[[], None]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def training_step() -> Callable[[], None]:
    torch.manual_seed(0)
    model = MambaLM(SHAPE, ReferenceOps())
    optimizer = make_optimizer(model, Trainer(decay_steps=1))
    resets = torch.rand(BATCH, LENGTH) < 0.005

    def step() -> None:
        tokens = torch.randint(0, VOCABULARY, (BATCH, LENGTH + 1))
        model.loss(tokens[:, :-1], tokens[:, 1:], resets).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def plain_scan(
    u: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, _: None
) -> torch.Tensor:
    """The recurrence as one would first write it: a loop over time that autograd records."""
    h = u.new_zeros(u.shape[0], u.shape[2], A.shape[1])
    out = []
    for t in range(u.shape[1]):
        h = torch.exp(dt[:, t, :, None] * A) * h + (dt[:, t] * u[:, t])[..., None] * B[:, t, None]
        out.append((h * C[:, t, None]).sum(-1))
    return torch.stack(out, 1)


def scan_round(which: Callable[..., torch.Tensor]) -> Callable[[], None]:
    inner, states = SHAPE.d_inner, SHAPE.d_state
    u, dt = torch.randn(BATCH, LENGTH, inner), torch.rand(BATCH, LENGTH, inner) * 0.1
    A = -torch.rand(inner, states) * 16
    B, C = torch.randn(BATCH, LENGTH, states), torch.randn(BATCH, LENGTH, states)
    inputs = [tensor.requires_grad_() for tensor in (u, dt, A, B, C)]

    def both_ways() -> None:
        which(*inputs, None).sum().backward()

    return both_ways


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    works = {"step": training_step(), "scan": scan_round(scan), "plain scan": scan_round(plain_scan)}
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(arguments.rounds):
        for name, work in works.items():
            times[name].append(seconds(work))
    median = {name: statistics.median(values) for name, values in times.items()}
    tokens = BATCH * LENGTH
    print(f"{cpu_name()}, {arguments.threads} threads, torch {torch.__version__}, {arguments.rounds} rounds, medians")
    print(
        f"training step (hidden 256, 4 layers, batch {BATCH} x {LENGTH}, vocabulary {VOCABULARY}): {tokens / median['step']:,.0f} tokens/s"
    )
    print(
        f"scan, forward and backward: {median['scan'] * 1e3:.1f} ms; plain loop through autograd: {median['plain scan'] * 1e3:.1f} ms"
    )
    print(f"ratio: {median['plain scan'] / median['scan']:.1f} x")


if __name__ == "__main__":
    main()
