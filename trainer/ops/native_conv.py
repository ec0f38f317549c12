"""The causal convolution with bias and SiLU on NVIDIA GPUs (`kernels/conv_*.cu`). Nothing is kept but what went in."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adam.trainer.ops.native_kernel import agree, derivative, element, in_rows, launch, operator, plain

WIDTH = 512  # channels of a block, as in conv_common.cuh
STEPS = 64  # of a segment of time: few for much to do at once, many for little to read beside it
TAPS = (2, 3, 4)


def causal_conv(x: Tensor, weight: Tensor, bias: Tensor | None, resets: Tensor | None) -> Tensor:
    """`Ops.causal_conv1d` on a GPU. bf16, fp16 or fp32, 2 to 4 taps. Differentiable once. Raises ValueError for others."""
    channels = x.shape[2]
    weight = weight.float()
    bias = weight.new_zeros(channels) if bias is None else bias.float()
    if more := -channels % 4:
        x, weight, bias = F.pad(x, (0, more)), F.pad(weight, (0, 0, 0, more)), F.pad(bias, (0, more))
    y: Tensor = torch.ops.adam.causal_conv(x, weight, bias, resets)
    return y[..., :channels]


def _forward(x: Tensor, weight: Tensor, bias: Tensor, resets: Tensor | None) -> Tensor:
    macros = _macros(x, weight, bias, resets)
    resets = None if resets is None else resets.contiguous()
    x, y = in_rows(x), torch.empty_like(x, memory_format=torch.contiguous_format)
    _launch("forward", macros, x, (x, plain(weight), plain(bias), resets, y))
    return y


def _backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, resets: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    macros = _macros(x, weight, bias, resets)
    resets = None if resets is None else resets.contiguous()
    x, dx = in_rows(x), torch.empty_like(x, memory_format=torch.contiguous_format)
    batch, length, channels = x.shape
    taps = weight.shape[1]
    sums = weight.new_empty(batch * -(-length // STEPS), taps + 1, channels)
    _launch("backward", macros, x, (plain(dy), x, plain(weight), plain(bias), resets, dx, sums))
    total = sums.sum(0)
    return dx, total[:taps].flip(0).t().contiguous(), total[taps].clone()


def _launch(
    direction: str, macros: tuple[tuple[str, int], ...], x: Tensor, arguments: tuple[Tensor | None, ...]
) -> None:
    batch, length, channels = x.shape
    segments = -(-length // STEPS)
    launch(
        ("conv_common.cuh", f"conv_{direction}.cu"),
        f"conv_{direction}",
        macros,
        (-(-channels // WIDTH) * segments * batch, 1),
        WIDTH // 4,
        (*arguments, length, channels, segments, STEPS, x.stride(1)),
    )


def _macros(x: Tensor, weight: Tensor, bias: Tensor, resets: Tensor | None) -> tuple[tuple[str, int], ...]:
    batch, length, channels = x.shape
    taps = weight.shape[-1]
    if taps not in TAPS:
        raise ValueError(f"the native causal_conv takes 2 to 4 taps, not {taps} (trainer.backend = 'torch' takes all)")
    wanted = {
        "x": (x, tuple(x.shape), x.dtype),
        "weight": (weight, (channels, taps), torch.float32),
        "bias": (bias, (channels,), torch.float32),
        "resets": (resets, (batch, length), torch.bool),
    }
    agree("causal_conv", wanted, x.device)
    return (("ELEMENT", element("causal_conv", x.dtype)), ("TAPS", taps))


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001  (torch calls it so)
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    return *torch.ops.adam.causal_conv_backward(dy, *ctx.saved_tensors), None


def _like(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


_OPERANDS = "Tensor x, Tensor weight, Tensor bias, Tensor? resets"
operator(f"causal_conv({_OPERANDS}) -> Tensor", _forward, lambda x, *_: _like(x))
operator(
    f"causal_conv_backward(Tensor dy, {_OPERANDS}) -> (Tensor, Tensor, Tensor)",
    _backward,
    lambda _, x, weight, bias, *__: (_like(x), _like(weight), _like(bias)),
)
derivative("causal_conv", _gradients, _remember)
