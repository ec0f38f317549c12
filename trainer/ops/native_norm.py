"""RMS norms on NVIDIA GPUs (`kernels/*_norm.cu`): with the residual stream's addition, and Mamba-2's gated one."""

from typing import Any

import torch
from torch import Tensor

from adam.trainer.ops.native_kernel import (
    ELEMENTS,
    Macros,
    agree,
    bits,
    derivative,
    element,
    in_rows,
    launch,
    operator,
    plain,
)

ITEMS = 6  # quads of a thread, at most
THREADS = (64, 128, 256, 512)
WIDEST = 4 * ITEMS * THREADS[-1]  # channels
# Of a backward, whatever the GPU: how many parts the weight's gradient is summed up from decides its bits. An H200 holds them at once.
BACKWARD_THREADS = 1 << 16
FORWARD_BLOCKS = 1 << 16


def takes(width: int) -> bool:
    """Whether the kernels take rows (or groups) of that many channels."""
    return width % 4 == 0 and 0 < width <= WIDEST


def add_rms_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, epsilon: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """`Ops.add_rms_norm` on a GPU, with the norm in `dtype`. Differentiable once. Raises ValueError for types it does not know."""
    kind, more = element("add_rms_norm", dtype), None
    if residual is None:
        residual = x.float()
    elif x.dtype == dtype:
        more = x
    else:
        residual = residual + x
    out, stream, _ = torch.ops.adam.add_rms_norm(more, residual, weight.float(), epsilon, kind)
    return out, residual if more is None else stream


def gated_rms_norm(x: Tensor, z: Tensor, weight: Tensor, epsilon: float, groups: int) -> Tensor:
    """`Ops.gated_rms_norm` on a GPU. Differentiable once. Raises ValueError for types it does not know."""
    out: Tensor = torch.ops.adam.gated_rms_norm(x, z.to(x.dtype), weight.float(), epsilon, groups)[0]
    return out


def shape_of(width: int) -> tuple[Macros, int]:
    """Macros and threads of a block for rows of that width."""
    threads = next(threads for threads in THREADS if width <= 4 * ITEMS * threads)
    return (("THREADS", threads), ("ITEMS", -(-width // (4 * threads)))), threads


def _add_forward(
    x: Tensor | None, residual: Tensor, weight: Tensor, epsilon: float, kind: int
) -> tuple[Tensor, Tensor, Tensor]:
    _agree(x, residual, weight, kind)
    residual, x = plain(residual), None if x is None else plain(x)
    width = residual.shape[-1]
    macros, threads = shape_of(width)
    out, stream, scales = _add_shapes(x, residual, weight, epsilon, kind)
    count = scales.numel()
    launch(
        ("norm_common.cuh", "add_norm.cu"),
        "add_norm_forward",
        (("ELEMENT", kind), *macros),
        (min(count, FORWARD_BLOCKS), 1),
        threads,
        (x, residual, plain(weight), out, None if x is None else stream, scales, count, width, bits(epsilon)),
    )
    return out, stream, scales


def _agree(x: Tensor | None, residual: Tensor, weight: Tensor, kind: int) -> None:
    dtype = next(dtype for dtype, number in ELEMENTS.items() if number == kind)
    wanted = {
        "x": (x, tuple(residual.shape), dtype),
        "residual": (residual, tuple(residual.shape), torch.float32),
        "weight": (weight, (residual.shape[-1],), torch.float32),
    }
    agree("add_rms_norm", wanted, residual.device)


def _add_backward(
    dout: Tensor, dstream: Tensor | None, stream: Tensor, weight: Tensor, scales: Tensor, both: bool
) -> tuple[Tensor, Tensor, Tensor]:
    stream = plain(stream)
    width, count = stream.shape[-1], scales.numel()
    macros, threads = shape_of(width)
    blocks = min(count, BACKWARD_THREADS // threads)
    dx, dresidual, _ = _add_backward_shapes(dout, dstream, stream, weight, scales, both)
    parts = stream.new_empty(blocks, width)
    launch(
        ("norm_common.cuh", "add_norm.cu"),
        "add_norm_backward",
        (("ELEMENT", ELEMENTS[dout.dtype]), *macros),
        (blocks, 1),
        threads,
        (
            plain(dout), None if dstream is None else plain(dstream), stream, plain(weight), scales, dx if both else None, dresidual, parts,
            count, width,
        ),
    )  # fmt: skip
    return dx, dresidual, parts.sum(0)


def _gated_forward(x: Tensor, z: Tensor, weight: Tensor, epsilon: float, groups: int) -> tuple[Tensor, Tensor]:
    channels = x.shape[-1]
    kind, shape = element("gated_rms_norm", x.dtype), tuple(x.shape)
    wanted = {"x": (x, shape, x.dtype), "z": (z, shape, x.dtype), "weight": (weight, (channels,), torch.float32)}
    agree("gated_rms_norm", wanted, x.device)
    x, z = plain(x), in_rows(z)
    width = channels // groups
    macros, threads = shape_of(width)
    out, scales = _gated_shapes(x, z, weight, epsilon, groups)
    count = x.numel() // channels
    launch(
        ("norm_common.cuh", "gated_norm.cu"),
        "gated_norm_forward",
        (("ELEMENT", kind), *macros),
        (min(count, FORWARD_BLOCKS), groups),
        threads,
        (x, z, plain(weight), out, scales, count, width, z.stride(1), bits(epsilon)),
    )
    return out, scales


def _gated_backward(
    dout: Tensor, x: Tensor, z: Tensor, weight: Tensor, scales: Tensor, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    x, z = plain(x), in_rows(z)
    channels = x.shape[-1]
    width, count = channels // groups, x.numel() // channels
    macros, threads = shape_of(width)
    blocks = min(count, BACKWARD_THREADS // threads)
    dx, dz, parts = torch.empty_like(x), torch.empty_like(x), weight.new_empty(blocks, channels)
    launch(
        ("norm_common.cuh", "gated_norm.cu"),
        "gated_norm_backward",
        (("ELEMENT", ELEMENTS[x.dtype]), *macros),
        (blocks, groups),
        threads,
        (plain(dout), x, z, plain(weight), scales, dx, dz, parts, count, width, z.stride(1)),
    )
    return dx, dz, parts.sum(0)


def _add_shapes(x: Tensor | None, residual: Tensor, _: Tensor, __: float, kind: int) -> tuple[Tensor, Tensor, Tensor]:
    """Room for the norm, the stream (nothing, where it is `residual`) and each row's scale."""
    dtype = next(dtype for dtype, number in ELEMENTS.items() if number == kind)
    shape = residual.shape
    stream = residual.new_empty(0 if x is None else shape)
    return residual.new_empty(shape, dtype=dtype), stream, residual.new_empty(shape[:-1])


def _add_backward_shapes(
    dout: Tensor, _: Tensor | None, stream: Tensor, weight: Tensor, __: Tensor, both: bool
) -> tuple[Tensor, Tensor, Tensor]:
    shape = stream.shape
    return dout.new_empty(shape if both else 0), stream.new_empty(shape), weight.new_empty(weight.shape)


def _gated_shapes(x: Tensor, _: Tensor, __: Tensor, ___: float, groups: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(*x.shape[:-1], groups, dtype=torch.float32)


def _add_remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, residual, weight, _, _ = inputs
    _, stream, scales = output
    ctx.both = x is not None
    ctx.mark_non_differentiable(scales)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(stream if ctx.both else residual, weight, scales)


def _add_gradients(ctx: Any, dout: Tensor | None, dstream: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    stream, weight, scales = ctx.saved_tensors
    if dout is None:  # only the stream was used
        return dstream, dstream, None, None, None
    run = torch.ops.adam.add_rms_norm_backward
    dx, dresidual, dweight = run(dout, dstream if ctx.both else None, stream, weight, scales, ctx.both)
    return dx if ctx.both else None, dresidual, dweight, None, None


def _gated_remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, z, weight, _, ctx.groups = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, z, weight, output[1])


def _gated_gradients(ctx: Any, dout: Tensor, _: None) -> tuple[Tensor | None, ...]:
    return *torch.ops.adam.gated_rms_norm_backward(dout, *ctx.saved_tensors, ctx.groups), None, None


operator(
    "add_rms_norm(Tensor? x, Tensor residual, Tensor weight, float epsilon, int kind) -> (Tensor, Tensor, Tensor)",
    _add_forward,
    _add_shapes,
)
operator(
    "add_rms_norm_backward(Tensor dout, Tensor? dstream, Tensor stream, Tensor weight, Tensor scales, bool both) "
    "-> (Tensor, Tensor, Tensor)",
    _add_backward,
    _add_backward_shapes,
)
operator(
    "gated_rms_norm(Tensor x, Tensor z, Tensor weight, float epsilon, int groups) -> (Tensor, Tensor)",
    _gated_forward,
    _gated_shapes,
)
operator(
    "gated_rms_norm_backward(Tensor dout, Tensor x, Tensor z, Tensor weight, Tensor scales, int groups) "
    "-> (Tensor, Tensor, Tensor)",
    _gated_backward,
    lambda _, x, __, weight, *___: (x.new_empty(x.shape), x.new_empty(x.shape), weight.new_empty(weight.shape)),
)
derivative("add_rms_norm", _add_gradients, _add_remember)
derivative("gated_rms_norm", _gated_gradients, _gated_remember)
