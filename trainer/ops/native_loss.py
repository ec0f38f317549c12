"""Linear output layer and cross-entropy on NVIDIA GPUs (`kernels/cross_entropy.cu`): logits only in the type of the products.

Logits of few enough tokens are kept for the backward; of more only the logarithm of each sum is, and the backward multiplies again. In
both directions rows go in chunks. The weight's gradient is summed up in fp32: by one product, and from chunk to chunk.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from adam.trainer.ops.native_kernel import agree, derivative, element, launch, operator

KEPT_BYTES = 1 << 31  # of logits that are kept: 21,000 tokens of 50,280 ids in bf16
CHUNK_BYTES = 1 << 31  # of logits that are there for a moment: as many, so that what is kept is one product


def cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Losses in nats, (T,) fp32, of logits hidden @ weight.T; the products are of the type of `hidden`, bf16, fp16 or fp32.

    hidden: (T, D). weight: (V, D), fp32 or of the same type; V a multiple of 4. targets: int64 (T,); the loss of one that is no word is
    NaN. Differentiable once. Raises ValueError for others.
    """
    keep = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    losses, _, _ = torch.ops.adam.cross_entropy(hidden, weight, targets, keep and _fits(hidden, weight))
    return losses  # type: ignore[no-any-return]


def _fits(hidden: Tensor, weight: Tensor) -> bool:
    return len(hidden) * len(weight) * hidden.element_size() <= KEPT_BYTES


def _chunks(hidden: Tensor, weight: Tensor) -> Iterator[slice]:
    """Equal parts of the tokens, but for the last one."""
    most = max(1, CHUNK_BYTES // (len(weight) * hidden.element_size()))
    size = -(-len(hidden) // -(-len(hidden) // most))
    return (slice(begin, min(begin + size, len(hidden))) for begin in range(0, len(hidden), size))


def _forward(hidden: Tensor, weight: Tensor, targets: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    macros = (("ELEMENT", element("cross_entropy", hidden.dtype)),)
    wanted = {
        "hidden": (hidden, tuple(hidden.shape), hidden.dtype),
        "targets": (targets, (len(hidden),), torch.int64),
        "weight": (weight, (len(weight), hidden.shape[1]), weight.dtype),
    }
    agree("cross_entropy", wanted, hidden.device)
    if len(weight) % 4:
        raise ValueError(f"the native cross_entropy takes a vocabulary that is a multiple of 4, not {len(weight)}")
    hidden, targets, vectors = hidden.contiguous(), targets.contiguous(), weight.to(hidden.dtype)
    losses, logsums, kept = _forward_shapes(hidden, weight, targets, keep)
    for part in _chunks(hidden, weight):
        logits = torch.mm(hidden[part], vectors.t(), out=kept[part]) if keep else hidden[part] @ vectors.t()
        _launch("forward", macros, logits, (logits, targets[part], losses[part], logsums[part]))
    return losses, logsums, kept


def _backward(
    dlosses: Tensor, hidden: Tensor, weight: Tensor, targets: Tensor, logsums: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor]:
    macros = (("ELEMENT", element("cross_entropy", hidden.dtype)),)
    hidden, targets, dlosses = (tensor.contiguous() for tensor in (hidden, targets, dlosses))
    vectors = weight.to(hidden.dtype)
    dhidden, dweight = torch.empty_like(hidden), None
    for part in _chunks(hidden, weight):
        logits = kept[part] if kept.numel() else hidden[part] @ vectors.t()
        dlogits = torch.empty_like(logits) if kept.numel() else logits
        _launch("backward", macros, logits, (logits, targets[part], logsums[part], dlosses[part], dlogits))
        torch.mm(dlogits, vectors, out=dhidden[part])
        dweight = _added(dweight, dlogits.t(), hidden[part])
    assert dweight is not None
    return dhidden, dweight.to(weight.dtype)


def _added(sum: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """sum + a @ b in fp32, in the memory of `sum`. torch adds no products of halves to fp32 in place."""
    whole = a.dtype == torch.float32 or a.device.type == "cpu"
    product = a.float() @ b.float() if whole else torch.mm(a, b, out_dtype=torch.float32)
    return product if sum is None else sum.add_(product)


def _launch(direction: str, macros: tuple[tuple[str, int], ...], logits: Tensor, arguments: tuple[Tensor, ...]) -> None:
    tokens, vocabulary = logits.shape
    launch(("cross_entropy.cu",), f"cross_entropy_{direction}", macros, (tokens, 1), 256, (*arguments, vocabulary))


def _forward_shapes(hidden: Tensor, weight: Tensor, _: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    losses, logsums = (hidden.new_empty(len(hidden), dtype=torch.float32) for _ in range(2))
    return losses, logsums, hidden.new_empty((len(hidden), len(weight)) if keep else (0,))


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, targets, _ = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(hidden, weight, targets, *output[1:])


def _gradients(ctx: Any, dlosses: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    return *torch.ops.adam.cross_entropy_backward(dlosses, *ctx.saved_tensors), None, None


_OPERANDS = "Tensor hidden, Tensor weight, Tensor targets"
operator(f"cross_entropy({_OPERANDS}, bool keep) -> (Tensor, Tensor, Tensor)", _forward, _forward_shapes)
operator(
    f"cross_entropy_backward(Tensor dlosses, {_OPERANDS}, Tensor logsums, Tensor kept) -> (Tensor, Tensor)",
    _backward,
    lambda _, hidden, weight, *__: (
        torch.empty_like(hidden, memory_format=torch.contiguous_format),
        torch.empty_like(weight, memory_format=torch.contiguous_format),
    ),
)
derivative("cross_entropy", _gradients, _remember)
