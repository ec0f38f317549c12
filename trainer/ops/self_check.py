"""Whether a backend gives the reference's results on this very machine: the selective scan, and of our own all else."""

import torch
from torch import Tensor

from adam.trainer.ops import native_launch, self_check_ops
from adam.trainer.ops.interface import Ops
from adam.trainer.ops.native import NativeOps
from adam.trainer.ops.native_kernel import Source, compile_all
from adam.trainer.ops.reference import ReferenceOps

OPERANDS = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
SEQUENCES = ("u", "delta", "B", "C", "z")  # of each sequence its own
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}  # of the 2-norm; bf16 rounds to 2e-3


def shapes(states: int) -> list[tuple[tuple[int, int, int, int], int]]:
    """(sequences, steps, channels, states), and how many copies of these sequences are computed at once.

    A short one whose channels fill no block; one that is cut into chunks of time side by side; and so many sequences that kernels and
    cuts are those of a large model: enough for all blocks of 188 multiprocessors, which hand chunks of time on.
    """
    return [((2, 45, 20, states), 1), ((2, 300, 68, states), 1), ((2, 300, 68, states), max(128, 4096 // states))]


def sources(dtype: torch.dtype, states: int, arch: str = "") -> list[Source]:
    """Files and macros of all our kernels that a check takes."""
    scanned = arch != "mamba2" and states <= native_launch.STATES[-1]
    scan = native_launch.sources(dtype, states) if scanned else []
    return [*scan, *self_check_ops.sources(dtype, arch)]


def self_check(ops: Ops, precision: str, states: int, arch: str = "") -> str:
    """What the operations do wrong on this GPU; empty if nothing. arch: of ours, what mamba1 or mamba2 never computes is left out."""
    dtype, ours = DTYPES[precision], isinstance(ops, NativeOps)
    try:
        if ours:
            compile_all(sources(dtype, states, arch), torch.cuda.current_device())
        for shape, copies in shapes(states) if not (ours and arch == "mamba2") else ():
            wrong = compare(ops, "cuda", shape, dtype, copies)
            if wrong:
                return wrong
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001  (of a library that does not fit, an import raises anything)
        return f"selective_scan, {precision}, {states} states: {type(error).__name__}: {first_line(error)}"
    return self_check_ops.check_ops(ops, "cuda", dtype, self_check_ops.checks_of(arch)) if ours else ""


def self_check_cpu(ops: Ops, precision: str, states: int) -> str:
    """What a CPU's compiled operators do wrong; empty if nothing: channels that fill no vector, several chunks of time, documents."""
    dtype = DTYPES[precision]
    for shape in ((2, 45, 20, states), (1, 70, 300, states)):
        if wrong := compare(ops, "cpu", shape, dtype):
            return wrong
    return self_check_ops.check_ops(ops, "cpu", dtype, self_check_ops.CONVOLUTIONS)


def first_line(error: Exception) -> str:
    """CUDA's errors go on for a paragraph about debugging."""
    return next(iter(str(error).splitlines()), "")


def compare(ops: Ops, device: str, shape: tuple[int, int, int, int], dtype: torch.dtype, copies: int = 1) -> str:
    """The first result of a scan that is not the reference's in fp64, by name and distance; empty if all are.

    copies: how many times the same sequences are computed at once; the farthest counts.
    """
    values, resets, dout = _operands(shape, dtype, device)
    exact = {name: value.detach().cpu().double().requires_grad_() for name, value in values.items()}
    right = _both_ways(ReferenceOps(), exact, resets.cpu(), dout.cpu().double())
    many = {name: _copied(value.detach(), copies if name in SEQUENCES else 1) for name, value in values.items()}
    found = _both_ways(
        ops,
        {name: value.requires_grad_() for name, value in many.items()},
        _copied(resets, copies),
        _copied(dout, copies),
    )
    for name, a, b in zip(("out", *OPERANDS), found, right, strict=True):
        each = a.double().reshape(copies, -1) if name in (*SEQUENCES, "out") else a.double().reshape(1, -1) / copies
        distance = float((each - b.to(device).reshape(1, -1)).norm(dim=1).max() / b.norm())
        if not distance <= TOLERANCE[dtype]:  # NaN is no small number
            what = name if name == "out" else f"the gradient of {name}"
            return (
                f"selective_scan, {dtype}, {' x '.join(map(str, (shape[0] * copies, *shape[1:])))}: {what} is {distance:.1e} off the "
                f"reference's (allowed: {TOLERANCE[dtype]})"
            )
    return ""


def _copied(tensor: Tensor, copies: int) -> Tensor:
    return tensor.repeat(copies, *(1 for _ in tensor.shape[1:]))


def _operands(
    shape: tuple[int, int, int, int], dtype: torch.dtype, device: str
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    batch, length, channels, states = shape
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    sequence, each = (batch, length, channels), (batch, length, states)
    shapes = (sequence, sequence, (channels, states), each, each, (channels,), sequence, (channels,))
    values = {name: draw(*size) for name, size in zip(OPERANDS, shapes, strict=True)}
    values["A"] = -values["A"].exp()
    kept = ("A", "D", "delta_bias")  # fp32 in any case
    values = {name: value.to(device, torch.float32 if name in kept else dtype) for name, value in values.items()}
    resets = torch.rand(batch, length, generator=generator) < 0.05
    return values, resets.to(device), draw(*sequence).to(device, dtype)


def _both_ways(ops: Ops, values: dict[str, Tensor], resets: Tensor, dout: Tensor) -> list[Tensor]:
    out = ops.selective_scan(**values, resets=resets)
    return [out.detach(), *torch.autograd.grad(out, tuple(values.values()), dout)]
