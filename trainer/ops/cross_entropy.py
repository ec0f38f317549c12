"""Cross-entropy of a linear output layer in plain PyTorch, without holding more than a bounded part of the logits.

    loss_i = log sum over v of exp(h_i w_v) - h_i w_target        d logits = softmax(logits) - 1 at the target

Many tokens go in chunks, whose logits the backward computes again: the output layer's forward a second time (on a CPU a third
more for the whole operation), instead of three tensors of (tokens, vocabulary). What fits in one chunk goes through autograd.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 1 << 28  # of fp32 logits: 1,334 tokens of 50,280 ids, enough for matrix products to be efficient


def cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Losses in nats, (T,), in fp32 (fp64 for fp64 inputs), of logits hidden @ weight.T.

    hidden: (T, D). weight: (V, D), of one dtype, which is that of the products. targets: int64 (T,), 0 to V - 1.
    Differentiable once.
    """
    tokens = max(1, CHUNK_BYTES // (4 * len(weight)))
    if len(hidden) <= tokens:
        return F.cross_entropy(_logits(hidden, weight), targets, reduction="none")
    losses: Tensor = _CrossEntropy.apply(hidden, weight, targets, tokens)
    return losses


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, tokens: int) -> Tensor:
        ctx.tokens = tokens
        ctx.save_for_backward(hidden, weight, targets)
        parts = zip(hidden.split(tokens), targets.split(tokens), strict=True)
        return torch.cat([F.cross_entropy(_logits(h, weight), t, reduction="none") for h, t in parts])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_losses: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets = ctx.saved_tensors
        d_hidden = torch.empty_like(hidden)
        d_weight = torch.zeros_like(weight, dtype=d_losses.dtype)  # sums of many chunks: not in half precision
        for begin in range(0, len(hidden), ctx.tokens):
            part = slice(begin, begin + ctx.tokens)
            d_logits = _logits(hidden[part], weight).softmax(1)
            d_logits[torch.arange(len(d_logits), device=targets.device), targets[part]] -= 1
            d_logits = d_logits.mul_(d_losses[part].unsqueeze(1)).to(weight.dtype)
            torch.mm(d_logits, weight, out=d_hidden[part])
            d_weight += d_logits.t() @ hidden[part]
        return d_hidden, d_weight.to(weight.dtype), None, None


def _logits(hidden: Tensor, weight: Tensor) -> Tensor:
    logits = hidden @ weight.t()
    return logits if logits.dtype == torch.float64 else logits.float()
