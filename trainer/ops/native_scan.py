"""The selective scan on NVIDIA GPUs: our kernels as operators of torch, so that torch.compile sees through.

Forward and backward are one kernel each, fused with bias, softplus, skip and gate. For the backward the forward keeps y before the gate
and the state every SAVED steps; or nothing, and the backward runs the forward again. Sums have one order: bit for bit repeatable.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from adam.trainer.ops.native_kernel import derivative, operator
from adam.trainer.ops.native_launch import Operands, kept, known_states, run_backward, run_forward

_OPERANDS = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor D, Tensor z, Tensor delta_bias, Tensor? resets, Tensor? initial"


def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    delta_bias: Tensor,
    resets: Tensor | None,
    initial: Tensor | None = None,
    *,
    recompute: bool = False,
) -> tuple[Tensor, Tensor]:
    """`Ops.selective_scan_from` on a GPU. recompute: keep nothing for the backward, which then takes a forward more.

    bf16, fp16 or fp32 (of several types the widest is taken); at most 64 states. Differentiable once. Raises ValueError for others.
    """
    dtype, states, channels = u.dtype, A.shape[1], u.shape[2]
    for tensor in (delta, B, C, z):
        dtype = torch.promote_types(dtype, tensor.dtype)
    out_dtype = u.dtype
    u, delta, z, B, C = (tensor.to(dtype) for tensor in (u, delta, z, B, C))
    A, D, delta_bias = A.float(), D.float(), delta_bias.float()
    more_states = known_states(states) - states
    more_channels = -channels % 4
    if more_channels:
        u, delta, z, D, delta_bias = (F.pad(tensor, (0, more_channels)) for tensor in (u, delta, z, D, delta_bias))
    if more_states:
        B, C = F.pad(B, (0, more_states)), F.pad(C, (0, more_states))
    if more_states or more_channels:
        A = F.pad(A, (0, more_states, 0, more_channels), value=-1.0)
        initial = None if initial is None else F.pad(initial, (0, more_states, 0, more_channels))
    given = (u, delta, A, B, C, D, z, delta_bias, *(() if initial is None else (initial,)))
    keep = not recompute and torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
    operator = torch.ops.adam.selective_scan
    out, last, _, _ = operator(u, delta, A, B, C, D, z, delta_bias, resets, initial, keep)
    return out[..., :channels].to(out_dtype), last[:, :channels, :states]


def _forward(*operands: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    *tensors, initial, keep = operands
    return run_forward(Operands.laid_out(*tensors), initial, keep=keep)


def _backward(dout: Tensor, d_last: Tensor | None, *operands: Any) -> tuple[Tensor, ...]:
    *tensors, initial, y, saved = operands
    laid_out = Operands.laid_out(*tensors)
    if not saved.numel():
        _, _, y, saved = run_forward(laid_out, initial, keep=True)
    return run_backward(laid_out, dout, d_last, y, saved)


def _forward_shapes(*operands: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    u, _, A, *_, keep = operands
    out = torch.empty_like(u, memory_format=torch.contiguous_format)
    return out, A.new_empty(u.shape[0], *A.shape), *kept(u, A.shape[1], keep=keep)


def _backward_shapes(*arguments: Any) -> tuple[Tensor, ...]:
    _, _, *operands = arguments
    u, _, A, *_ = operands
    like = (torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in operands[:8])
    return *like, A.new_empty(u.shape[0], *A.shape)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *operands, _ = inputs
    _, _, y, saved = output
    ctx.mark_non_differentiable(y, saved)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*operands, y, saved)


def _gradients(ctx: Any, dout: Tensor | None, d_last: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    *operands, y, saved = ctx.saved_tensors
    dout = torch.zeros_like(operands[0]) if dout is None else dout
    *gradients, d_initial = torch.ops.adam.selective_scan_backward(dout, d_last, *operands, y, saved)
    return *gradients, None, None if operands[9] is None else d_initial, None


operator(f"selective_scan({_OPERANDS}, bool keep) -> (Tensor, Tensor, Tensor, Tensor)", _forward, _forward_shapes)
operator(
    f"selective_scan_backward(Tensor dout, Tensor? d_last, {_OPERANDS}, Tensor y, Tensor saved) -> ({', '.join(['Tensor'] * 9)})",
    _backward,
    _backward_shapes,
)
derivative("selective_scan", _gradients, _remember)
