"""The selective scan of a Mamba-1 2.7B layer: our kernels beside mamba_ssm's.

    python -P benchmarks/scan.py [--batches 8,4,2,1] [--length 2048] [--rounds 30] [--vs mamba_ssm]

Random bf16 data, D 5120, N 16, dt as Mamba begins with; bias, softplus, skip and gate fused. All ways are measured in one process, a call
of each in turn, with events around it, cold caches, and the GPU kept busy before it so that queueing is not measured; medians. Then errors
of output and gradients against float64, in the 2-norm, and whether a second backward gives the same bits. Needs an NVIDIA GPU with
80 GB for batch 8; without --vs it needs nothing else.
"""

import argparse
import math
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from adam.trainer.ops.native_scan import scan
from adam.trainer.ops.reference import ReferenceOps

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
Inputs = dict[str, Tensor]
Way = Callable[[Inputs], Tensor]


def inputs(batch: int, length: int, channels: int, states: int, seed: int = 0) -> Inputs:
    g = torch.Generator("cuda").manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, device="cuda", generator=g)

    dt = torch.exp(torch.rand(channels, device="cuda", generator=g) * math.log(100) + math.log(1e-3))
    values = {
        "u": draw(batch, length, channels).bfloat16(),
        "delta": (draw(batch, length, channels) * 0.5).bfloat16(),
        "A": -torch.arange(1, states + 1, device="cuda") * torch.exp(0.2 * draw(channels, states)),
        "B": draw(batch, length, states).bfloat16(),
        "C": draw(batch, length, states).bfloat16(),
        "D": 1 + 0.2 * draw(channels),
        "z": draw(batch, length, channels).bfloat16(),
        "delta_bias": dt + torch.log(-torch.expm1(-dt)),
    }
    return {name: value.requires_grad_() for name, value in values.items()}


def native(values: Inputs) -> Tensor:
    return scan(**values, resets=None)[0]


def recomputed(values: Inputs) -> Tensor:
    return scan(**values, resets=None, recompute=True)[0]


def channels_first(values: Inputs) -> Inputs:
    """The same as mamba_ssm lays it out, where it is fastest."""
    first = {name: value.detach() for name, value in values.items()}
    first |= {name: value.transpose(1, 2).contiguous() for name, value in first.items() if value.ndim == 3}
    return {name: value.requires_grad_() for name, value in first.items()}


def mamba_ssm(values: Inputs) -> Tensor:
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    operands = (values[name] for name in ("u", "delta", "A", "B", "C", "D"))
    out: Tensor = selective_scan_fn(*operands, z=values["z"], delta_bias=values["delta_bias"], delta_softplus=True)
    return out


def milliseconds(call: Callable[[], object], cold: Tensor) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    cold.zero_()
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def measure(ways: dict[str, Way], batch: int, length: int, rounds: int) -> None:
    plain = inputs(batch, length, 5120, 16)
    given = {name: channels_first(plain) if way is mamba_ssm else plain for name, way in ways.items()}
    gradient = torch.randn(batch, length, 5120, device="cuda", dtype=torch.bfloat16)
    outs = {name: way(given[name]) for name, way in ways.items()}
    gradients = {
        name: gradient.transpose(1, 2).contiguous() if way is mamba_ssm else gradient for name, way in ways.items()
    }
    cold = torch.empty(
        1 << 30, dtype=torch.int16, device="cuda"
    )  # 2 GiB: about half a millisecond of work, longer than queueing takes
    forward: dict[str, list[float]] = {name: [] for name in ways}
    backward: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 3):
        for name, way in ways.items():
            operands = tuple(given[name].values())
            f = milliseconds(lambda way=way, name=name: way(given[name]), cold)
            b = milliseconds(
                lambda name=name, operands=operands: torch.autograd.grad(
                    outs[name], operands, gradients[name], retain_graph=True
                ),
                cold,
            )
            if number >= 3:
                forward[name].append(f)
                backward[name].append(b)
    last = list(ways)[-1]
    base = statistics.median(forward[last]) + statistics.median(backward[last])
    for name in ways:
        f, b = statistics.median(forward[name]), statistics.median(backward[name])
        both = [x + y for x, y in zip(forward[name], backward[name], strict=True)]
        print(
            f"{batch} x {length}  {name:28} forward {f:6.3f} ms  backward {b:6.3f} ms  both {f + b:6.3f} ms "
            f"({min(both):.3f} to {max(both):.3f})  {base / (f + b):5.2f} x",
            flush=True,
        )


def both_ways(way: Way, values: Inputs, gradient: Tensor) -> list[Tensor]:
    out = way(values)
    return [out.detach(), *torch.autograd.grad(out, tuple(values.values()), gradient)]


def errors(ways: dict[str, Way]) -> None:
    plain = inputs(2, 512, 256, 16, seed=1)
    gradient = torch.randn(2, 512, 256, device="cuda", dtype=torch.bfloat16)
    exact = {name: value.detach().double().requires_grad_() for name, value in plain.items()}
    right = both_ways(lambda values: ReferenceOps().selective_scan(**values, resets=None), exact, gradient.double())
    print("relative errors against float64, 2 x 512, D 256, N 16")
    for name, way in ways.items():
        first = way is mamba_ssm
        values = channels_first(plain) if first else plain
        coming = gradient.transpose(1, 2).contiguous() if first else gradient
        found, again = both_ways(way, values, coming), both_ways(way, values, coming)
        back = [tensor.transpose(1, 2) if first and tensor.ndim == 3 else tensor for tensor in found]
        said = "  ".join(
            f"{what} {float((a.double() - b).norm() / b.norm()):.1e}"
            for what, a, b in zip(("out", *NAMES), back, right, strict=True)
        )
        same = all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
        print(f"{name:28} {said}  a second backward: {'the same bits' if same else 'other bits'}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batches", default="8,4,2,1")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--vs", choices=["mamba_ssm"])
    arguments = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    ways: dict[str, Way] = {"native, states kept": native, "native, states recomputed": recomputed}
    if arguments.vs:
        ways["mamba_ssm"] = mamba_ssm
    errors(ways)
    for batch in map(int, arguments.batches.split(",")):
        measure(ways, batch, arguments.length, arguments.rounds)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
