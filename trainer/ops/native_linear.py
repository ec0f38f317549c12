"""A linear layer in half precision whose output is handed on in parts, and whose weight's gradient comes in fp32.

torch's own would copy the parts' gradients together before it multiplies (690 MB a layer of the 2.7B model at 8 x 2048), and round the
weight's gradient to half precision only to widen it again.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class NativeLinear(nn.Linear):
    """`nn.Linear` without bias. Under autocast its products are of autocast's type; without, it is `nn.Linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return self.parts(input, [self.out_features])[0]

    def parts(self, input: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
        """The output in parts along its last dimension, of these sizes. Differentiable once."""
        device = input.device.type
        if not torch.is_autocast_enabled(device):
            plain: tuple[Tensor, ...] = super().forward(input).split(sizes, dim=-1)
            return plain
        dtype = torch.get_autocast_dtype(device)
        with torch.autocast(device, enabled=False):
            found: tuple[Tensor, ...] = _Product.apply(input.to(dtype), self.weight, sizes)
        return found


def parts(linear: nn.Linear, input: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    """What a layer makes of `input`, in parts of its output's last dimension."""
    if isinstance(linear, NativeLinear):
        return linear.parts(input, sizes)
    found: tuple[Tensor, ...] = linear(input).split(sizes, dim=-1)
    return found


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
        half = weight.to(x.dtype)
        ctx.sizes = sizes
        ctx.save_for_backward(x, half)
        made: tuple[Tensor, ...] = (x @ half.t()).split(sizes, dim=-1)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_parts: Tensor) -> tuple[Tensor | None, ...]:
        x, half = ctx.saved_tensors
        flat = x.flatten(0, -2)
        d_x, d_weight = torch.empty_like(flat), torch.empty_like(half, dtype=torch.float32)
        begin = 0
        for d_part in d_parts:
            rows = slice(begin, begin + d_part.shape[-1])
            dy = d_part.flatten(0, -2)
            if begin:
                d_x.addmm_(dy, half[rows])
            else:
                torch.mm(dy, half[rows], out=d_x)
            multiply_wide(dy.t(), flat, d_weight[rows])
            begin = rows.stop
        return d_x.view_as(x), d_weight, None


def multiply_wide(a: Tensor, b: Tensor, out: Tensor) -> None:
    """out = a @ b of halves, in fp32."""
    if a.device.type == "cpu":
        torch.mm(a.float(), b.float(), out=out)
    else:
        torch.mm(a, b, out_dtype=torch.float32, out=out)
