"""The operations of a 2.7B model beside the selective scan: our kernels, plain torch's, and mamba_ssm's where it is installed.

    python -P benchmarks/ops.py [--tokens 8x2048] [--rounds 20] [--only conv,norm,gated,loss,adamw,ssd] [--kernels] [--compile-only]

Random bf16 data under bf16 autocast, forward and backward; all ways of an operation are measured in one process, a call of each in
turn, with events around it, cold caches, and the GPU kept busy before it so that queueing is not measured; medians. Beside the times: the
bytes that must move at the least, and what share of the speed of a large copy on the same GPU that makes. --compile-only compiles the
kernels for this GPU, or without one for sm_90, and says what each takes. --kernels says where the time of ours goes.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from adam.trainer.ops.interface import Ops
from adam.trainer.ops.native import NativeOps
from adam.trainer.ops.native_adamw import NativeAdamW
from adam.trainer.ops.nvrtc import compile_kernels
from adam.trainer.ops.reference import ReferenceOps
from adam.trainer.ops.self_check import sources

MODEL, INNER, WORDS, HEADS, WIDTH, STATES = 2560, 5120, 50280, 80, 64, 128
OURS, PLAIN, STOCK = "native", "torch", "mamba_ssm"
Call = Callable[[], tuple[Tensor, ...]]


class Work(NamedTuple):
    """An operation: its ways, what its gradients are wanted of, and the bytes that forward and backward must move at the least."""

    ways: dict[str, Call]
    operands: tuple[Tensor, ...]
    forward_bytes: int
    backward_bytes: int


def draw(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, device="cuda").to(dtype).requires_grad_()


def ours_and_plain(call: Callable[[Ops], Tensor | tuple[Tensor, ...]], *, plain: bool = True) -> dict[str, Call]:
    def of(ops: Ops) -> Call:
        def run() -> tuple[Tensor, ...]:
            found = call(ops)
            return found if isinstance(found, tuple) else (found,)

        return run

    return {OURS: of(NativeOps())} | ({PLAIN: of(ReferenceOps())} if plain else {})


def conv(batch: int, length: int) -> Work:
    x, weight, bias = draw(batch, length, INNER), draw(INNER, 4, dtype=torch.float32), draw(INNER, dtype=torch.float32)
    ways = ours_and_plain(lambda ops: ops.causal_conv1d(x, weight, bias, None))
    try:
        from causal_conv1d import causal_conv1d_fn

        half = weight.bfloat16(), bias.bfloat16()
        ways[STOCK] = lambda: (causal_conv1d_fn(x.transpose(1, 2), *half, activation="silu").transpose(1, 2),)
    except ImportError:
        pass
    one = x.numel() * 2
    return Work(ways, (x, weight, bias), 2 * one, 3 * one)


def norm(batch: int, length: int) -> Work:
    x, weight = draw(batch, length, MODEL), draw(MODEL, dtype=torch.float32)
    residual = draw(batch, length, MODEL, dtype=torch.float32)
    ways = ours_and_plain(lambda ops: ops.add_rms_norm(x, residual, weight, 1e-5))
    try:
        from mamba_ssm.ops.triton.layer_norm import rms_norm_fn

        def stock() -> tuple[Tensor, ...]:
            found: tuple[Tensor, ...] = rms_norm_fn(
                x, weight, None, residual=residual, prenorm=True, residual_in_fp32=True
            )
            return found

        ways[STOCK] = stock
    except ImportError:
        pass
    one = x.numel() * 2
    return Work(ways, (x, residual, weight), 6 * one, 8 * one)


def gated(batch: int, length: int) -> Work:
    x, z, weight = draw(batch, length, INNER), draw(batch, length, INNER), draw(INNER, dtype=torch.float32)
    ways = ours_and_plain(lambda ops: ops.gated_rms_norm(x, z, weight, 1e-5, 1))
    try:
        from mamba_ssm.ops.triton.layernorm_gated import rmsnorm_fn

        ways[STOCK] = lambda: (rmsnorm_fn(x, weight, None, z=z, eps=1e-5, norm_before_gate=False),)
    except ImportError:
        pass
    one = x.numel() * 2
    return Work(ways, (x, z, weight), 3 * one, 5 * one)


def loss(batch: int, length: int) -> Work:
    """Beside what every trainer does: fp32 logits and torch's loss. The bytes are those of bf16 logits alone: products count besides."""
    hidden = draw(batch, length, MODEL)
    weight = (0.02 * torch.randn(WORDS, MODEL, device="cuda")).requires_grad_()
    targets = torch.randint(0, WORDS, (batch, length), device="cuda")
    ways = ours_and_plain(lambda ops: ops.cross_entropy(hidden, weight, targets))

    def at_once() -> tuple[Tensor, ...]:
        logits = F.linear(hidden, weight).float()
        return (F.cross_entropy(logits.view(-1, WORDS), targets.view(-1), reduction="none").view_as(targets),)

    ways["logits at once"] = at_once
    logits = batch * length * WORDS * 2
    return Work(ways, (hidden, weight), 2 * logits, 4 * logits)


def ssd(batch: int, length: int) -> Work:
    mixed = draw(batch, length, INNER + 2 * STATES)
    dt, bias = draw(batch, length, HEADS), (torch.rand(HEADS, device="cuda") * 4 - 6).requires_grad_()
    A = (-torch.rand(HEADS, device="cuda") * 15 - 1).requires_grad_()
    D = draw(HEADS, dtype=torch.float32)

    def parts() -> tuple[Tensor, Tensor, Tensor]:
        x, B, C = mixed.split([INNER, STATES, STATES], dim=-1)
        return x.unflatten(-1, (HEADS, WIDTH)), B.unsqueeze(2), C.unsqueeze(2)

    def run(ops: Ops) -> Tensor:
        x, B, C = parts()
        return ops.ssd(x, dt, A, B, C, D, bias, None, 256)

    ways = ours_and_plain(run, plain=batch * length <= 4096)  # the reference would take 40 GB and more
    try:
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

        def stock() -> tuple[Tensor, ...]:
            x, B, C = parts()
            return (mamba_chunk_scan_combined(x, dt, A, B, C, 256, D=D, dt_bias=bias, dt_softplus=True),)

        ways[STOCK] = stock
    except ImportError:
        pass
    one = batch * length * INNER * 2
    return Work(ways, (mixed, dt, A, D, bias), 2 * one, 3 * one)


WORKS = {"conv": conv, "norm": norm, "gated": gated, "loss": loss, "ssd": ssd}


def milliseconds(call: Callable[[], object], cold: Tensor) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    cold.zero_()
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def copy_speed(cold: Tensor) -> float:
    """GB/s of a large copy, read and written bytes counted."""
    to = torch.empty_like(cold)
    times = [milliseconds(lambda: to.copy_(cold), cold) for _ in range(10)]
    return 2 * cold.numel() * cold.element_size() / statistics.median(times[2:]) / 1e6


def measure(name: str, work: Work, rounds: int, cold: Tensor, speed: float) -> None:
    forward: dict[str, list[float]] = {way: [] for way in work.ways}
    backward: dict[str, list[float]] = {way: [] for way in work.ways}
    peak: dict[str, float] = {}
    for number in range(rounds + 3):
        for way, call in work.ways.items():
            torch.cuda.reset_peak_memory_stats()
            before, found = torch.cuda.memory_allocated(), []
            with torch.autocast("cuda", dtype=torch.bfloat16):
                f = milliseconds(lambda call=call, found=found: found.extend(call()), cold)
            coming = [torch.ones_like(out) for out in found]
            b = milliseconds(lambda found=found, coming=coming: torch.autograd.grad(found, work.operands, coming), cold)
            peak[way] = (torch.cuda.max_memory_allocated() - before) / 2**30
            if number >= 3:
                forward[way].append(f)
                backward[way].append(b)
    base = statistics.median(forward[OURS]) + statistics.median(backward[OURS])
    for way in work.ways:
        f, b = statistics.median(forward[way]), statistics.median(backward[way])
        shares = (
            f"{size / time / 1e6 / speed:4.0%}" for size, time in ((work.forward_bytes, f), (work.backward_bytes, b))
        )
        print(
            f"{name:6} {way:16} forward {f:7.3f} ms ({next(shares)})  backward {b:7.3f} ms ({next(shares)})  "
            f"both {f + b:7.3f} ms = {(f + b) / base:5.2f} x ours  {peak[way]:5.2f} GiB more at the most",
            flush=True,
        )


def kernels(name: str, work: Work) -> None:
    """The kernels of our forward and backward, the longest first."""
    for _ in range(2):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            with torch.autocast("cuda", dtype=torch.bfloat16):
                found = work.ways[OURS]()
            torch.autograd.grad(found, work.operands, [torch.ones_like(out) for out in found])
            torch.cuda.synchronize()
    for kernel in sorted(profile.key_averages(), key=lambda kernel: -kernel.device_time_total)[:16]:
        print(f"{name:6}   {kernel.device_time_total:8.1f} us  {kernel.count:3} x  {kernel.key[:110]}", flush=True)


def adamw(rounds: int, cold: Tensor, speed: float, elements: int = 400_000_000) -> None:
    """Clipping and update of a part of a model, in tensors of a block's sizes: ours, torch's fused ones."""
    sizes = [
        (2 * INNER, MODEL),
        (MODEL, INNER),
        (INNER, 192),
        (INNER, 160),
        (INNER, 16),
        (INNER, 4),
        (INNER,),
        (MODEL,),
    ]
    block = sum(torch.Size(size).numel() for size in sizes)
    shapes = sizes * (elements // block)
    count = block * (elements // block)
    parameters = [torch.randn(shape, device="cuda").requires_grad_() for shape in shapes]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    options = {"lr": 1e-4, "betas": (0.9, 0.95), "eps": 1e-8}
    ours = NativeAdamW([{"params": parameters, "weight_decay": 0.1}], **options)
    theirs = torch.optim.AdamW(parameters, weight_decay=0.1, fused=True, **options)
    ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        OURS: (lambda: ours.clip(1.0), ours.update),
        PLAIN: (lambda: torch.nn.utils.clip_grad_norm_(parameters, 1.0), theirs.step),
    }
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for number in range(rounds + 2):
        for way, (clip, update) in ways.items():
            c, u = milliseconds(clip, cold), milliseconds(update, cold)
            if number >= 2:
                times[way].append((c, u))
    for way, each in times.items():
        c, u = (statistics.median(column) for column in zip(*each, strict=True))
        print(
            f"adamw  {way:16} clip {c:7.3f} ms ({4 * count / c / 1e6 / speed:4.0%})  "
            f"update {u:7.3f} ms ({28 * count / u / 1e6 / speed:4.0%})  "
            f"for 2.768 B: {(c + u) * 2.768e9 / count:6.2f} ms",
            flush=True,
        )


def compile_only() -> None:
    """Registers, stack, spilled bytes and static shared memory of each kernel that a model may take."""
    major, minor = torch.cuda.get_device_capability() if torch.cuda.is_available() else (9, 0)
    for files, macros in sources(torch.bfloat16, 16):
        binary = compile_kernels(("common.cuh", *files), dict(macros), f"sm_{major}{minor}")
        for kernel, resources in binary.resources().items():
            print(f"{kernel:24} {dict(macros)} {resources}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", default="8x2048")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", default=",".join([*WORKS, "adamw"]))
    parser.add_argument("--kernels", action="store_true")
    parser.add_argument("--compile-only", action="store_true")
    arguments = parser.parse_args()
    if arguments.compile_only:
        compile_only()
        return
    torch.manual_seed(0)
    batch, length = map(int, arguments.tokens.split("x"))
    # 2 GiB: half a millisecond of work, longer than queueing takes.
    cold = torch.empty(1 << 30, dtype=torch.int16, device="cuda")
    speed = copy_speed(cold)
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}; a copy moves {speed:,.0f} GB/s; {arguments.tokens} tokens"
    )
    for name in arguments.only.split(","):
        if name == "adamw":
            adamw(arguments.rounds, cold, speed)
        else:
            work = WORKS[name](batch, length)
            measure(name, work, arguments.rounds, cold, speed)
            if arguments.kernels:
                kernels(name, work)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
