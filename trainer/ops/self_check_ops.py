"""Whether a backend's other operations give the reference's results on this very machine: forward, backward, with documents."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from adam.trainer.ops import native_ssd
from adam.trainer.ops.interface import Ops
from adam.trainer.ops.native_kernel import ELEMENTS, Macros, Source
from adam.trainer.ops.native_norm import shape_of
from adam.trainer.ops.reference import ReferenceOps

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # of the 2-norm; bf16 rounds to 2e-3, and products of it add up
WIDE = ("weight", "bias", "residual", "A", "D", "dt_bias")  # fp32 in any case
EPSILON = 1e-5
Values = dict[str, Tensor]
Call = Callable[[Ops, Values, Tensor], Tensor | tuple[Tensor, ...]]


class Check(NamedTuple):
    """An operation, the shapes of its operands, and the call, which is given the operands and where documents begin."""

    name: str
    shapes: dict[str, tuple[int, ...]]
    call: Call


def _conv(ops: Ops, v: Values, resets: Tensor) -> Tensor:
    return ops.causal_conv1d(v["x"], v["weight"], v["bias"], resets)


def _add_norm(ops: Ops, v: Values, _: Tensor) -> tuple[Tensor, Tensor]:
    return ops.add_rms_norm(v["x"], v["residual"], v["weight"], EPSILON)


def _first_norm(ops: Ops, v: Values, _: Tensor) -> tuple[Tensor, Tensor]:
    return ops.add_rms_norm(v["x"], None, v["weight"], EPSILON)


def _gated_norm(ops: Ops, v: Values, _: Tensor) -> Tensor:
    return ops.gated_rms_norm(v["x"], v["z"], v["weight"], EPSILON, 2)


def _loss(ops: Ops, v: Values, resets: Tensor) -> Tensor:
    targets = torch.arange(resets.numel(), device=resets.device).view(resets.shape) * 37 % len(v["weight"])
    return ops.cross_entropy(v["x"], v["weight"], targets)


def _ssd(ops: Ops, v: Values, resets: Tensor) -> Tensor:
    A = -v["A"].abs().clamp(min=0.1)
    return ops.ssd(v["x"], v["dt"], A, v["B"], v["C"], v["D"], v["dt_bias"] - 3, resets, 64)


def _duality(batch: int, length: int, heads: int, states: int) -> dict[str, tuple[int, ...]]:
    each, of_head = (batch, length, 1, states), (heads,)
    x, dt = (batch, length, heads, 64), (batch, length, heads)
    return {"x": x, "dt": dt, "A": of_head, "B": each, "C": each, "D": of_head, "dt_bias": of_head}


# x is (sequences, steps, …) of each. Small, as the reference is computed on the CPU: more rows than a norm's backward has blocks, a row of
# a large model's width; more than one chunk, more heads than a block has, as many states as Mamba-2.
CONVOLUTIONS = [
    Check("causal_conv1d", {"x": (2, 70, 20), "weight": (20, 4), "bias": (20,)}, _conv),
    Check("causal_conv1d", {"x": (1, 70, 520), "weight": (520, 4), "bias": (520,)}, _conv),
]
CHECKS = [
    *CONVOLUTIONS,
    Check("add_rms_norm", {"x": (2, 600, 20), "residual": (2, 600, 20), "weight": (20,)}, _add_norm),
    Check("add_rms_norm", {"x": (1, 4, 2560), "residual": (1, 4, 2560), "weight": (2560,)}, _add_norm),
    Check("add_rms_norm", {"x": (2, 3, 260), "weight": (260,)}, _first_norm),
    Check("gated_rms_norm", {"x": (2, 600, 40), "z": (2, 600, 40), "weight": (40,)}, _gated_norm),
    Check("gated_rms_norm", {"x": (1, 4, 5120), "z": (1, 4, 5120), "weight": (5120,)}, _gated_norm),
    Check("ssd", _duality(1, 140, 17, 16), _ssd),
    Check("ssd", _duality(1, 140, 2, 128), _ssd),
    Check("cross_entropy", {"x": (2, 9, 64), "weight": (5004, 64)}, _loss),
]


LEFT_OUT = {"mamba1": ("gated_rms_norm", "ssd")}  # what an architecture never computes


def checks_of(arch: str) -> list[Check]:
    """What a model of that architecture computes; empty: all there is."""
    return [check for check in CHECKS if check.name not in LEFT_OUT.get(arch, ())]


def sources(dtype: torch.dtype, arch: str = "") -> list[Source]:
    """Files and macros of what the checks take in that type, AdamW's kernels too."""
    names = {check.name for check in checks_of(arch)}
    kind: Macros = (("ELEMENT", ELEMENTS[dtype]),)
    taps: Macros = (*kind, ("TAPS", 4))
    norms = (shape_of(width)[0] for width in (20, 260, 2560))
    gated = [("norm_common.cuh", "gated_norm.cu")] if "gated_rms_norm" in names else []
    duality = (source for states in (16, 128) for source in native_ssd.sources(dtype, states) if "ssd" in names)
    return [
        *((("conv_common.cuh", f"conv_{direction}.cu"), taps) for direction in ("forward", "backward")),
        *((("norm_common.cuh", "add_norm.cu"), (*kind, *macros)) for macros in dict.fromkeys(norms)),
        *((files, (*kind, *shape_of(width)[0])) for files in gated for width in (20, 2560)),
        (("cross_entropy.cu",), kind),
        *dict.fromkeys(duality),
        (("adamw.cu",), (("ELEMENT", ELEMENTS[torch.float32]),)),
    ]


def check_ops(ops: Ops, device: str, dtype: torch.dtype, checks: list[Check] = CHECKS) -> str:
    """The first result of an operation that is not the reference's in fp64, by name and distance; empty if all are."""
    for check in checks:
        try:
            wrong = _compare(ops, check, device, dtype)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001  (told by the operation's name)
            wrong = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        if wrong:
            return f"{check.name}, {dtype}, {' x '.join(map(str, check.shapes['x']))}: {wrong}"
    return ""


def _compare(ops: Ops, check: Check, device: str, dtype: torch.dtype) -> str:
    values, resets = _operands(check, device, dtype)
    exact = {name: value.detach().cpu().double().requires_grad_() for name, value in values.items()}
    with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = _results(check.call(ops, values, resets))
    right = _results(check.call(ReferenceOps(), exact, resets.cpu()))
    generator = torch.Generator().manual_seed(1)
    coming = [torch.randn(result.shape, generator=generator, dtype=torch.float64) for result in right]
    rounded = [gradient.to(result) for gradient, result in zip(coming, found, strict=True)]
    gradients = torch.autograd.grad(found, tuple(values.values()), rounded)
    wanted = torch.autograd.grad(right, tuple(exact.values()), [g.cpu().double() for g in rounded])
    names = [*("out", "the residual stream")[: len(found)], *(f"the gradient of {name}" for name in values)]
    for what, a, b in zip(names, (*found, *gradients), (*right, *wanted), strict=True):
        distance = float((a.detach().cpu().double() - b.detach()).norm() / b.detach().norm())
        if not distance <= TOLERANCE[dtype]:  # NaN is no small number
            return f"{what} is {distance:.1e} off the reference's (allowed: {TOLERANCE[dtype]})"
    return ""


def _results(found: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)


def _operands(check: Check, device: str, dtype: torch.dtype) -> tuple[Values, Tensor]:
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.randn(*shape, generator=generator) for name, shape in check.shapes.items()}
    placed = {
        name: value.to(device, torch.float32 if name in WIDE else dtype).requires_grad_()
        for name, value in values.items()
    }
    resets = torch.rand(check.shapes["x"][:2], generator=generator) < 0.05
    return placed, resets.to(device)
