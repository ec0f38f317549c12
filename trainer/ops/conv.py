"""The causal depthwise convolution and its SiLU in plain PyTorch, with a hand-written backward.

    pre_t = bias + sum over k of w_k x_{t-k}, where t-k and t are of one document        y_t = SiLU(pre_t)

Autograd's own backward of the shifted products fills a whole (B, L, D) with zeros for each tap; this one adds in place.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None, resets: Tensor | None) -> Tensor:
    """SiLU of the convolution above. x: (B, L, D). weight: (D, K), its last tap at the token itself. bias: (D,) or None.

    resets: bool (B, L) or None. All of one float dtype. Gives (B, L, D). Differentiable once.
    """
    y: Tensor = _CausalConv.apply(x, weight, bias, resets)
    return y


class _CausalConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, resets: Tensor | None) -> Tensor:
        taps = _taps(weight)
        pre = x * taps[0] if bias is None else torch.addcmul(bias, x, taps[0])
        for back in range(1, len(taps)):
            pre[:, back:].addcmul_(_inside(x[:, :-back], resets, back), taps[back])
        ctx.save_for_backward(x, weight, pre, *([] if resets is None else [resets]))
        ctx.has_bias = bias is not None
        return F.silu(pre)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, pre, *maybe = ctx.saved_tensors
        resets, taps = (maybe[0] if maybe else None), _taps(weight)
        open_share = torch.sigmoid(pre)
        # SiLU'(p) = s + p s (1 - s), s = sigmoid(p)
        d_pre = torch.addcmul(open_share, pre.mul(open_share), 1 - open_share).mul_(dy)
        d_x, d_taps = d_pre * taps[0], torch.zeros_like(taps)
        d_taps[0] = (d_pre * x).sum((0, 1))
        for back in range(1, len(taps)):
            reached = _inside(d_pre[:, back:], resets, back)
            d_x[:, :-back].addcmul_(reached, taps[back])
            d_taps[back] = (reached * x[:, :-back]).sum((0, 1))
        return d_x, d_taps.flip(0).t(), d_pre.sum((0, 1)) if ctx.has_bias else None, None


def _taps(weight: Tensor) -> Tensor:
    """(K, D), row k the weights of the token k back; channels contiguous, without which the products are not vectorised."""
    return weight.t().flip(0).contiguous()


def _inside(part: Tensor, resets: Tensor | None, back: int) -> Tensor:
    """`part`, (B, L - back, D), with zeros where a token and the one `back` before it are of different documents."""
    if resets is None:
        return part
    document = resets.cumsum(1)
    return part * (document[:, back:] == document[:, :-back]).to(part.dtype).unsqueeze(2)
