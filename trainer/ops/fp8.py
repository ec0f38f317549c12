"""Linear layers whose products are of fp8 numbers: the forward and the gradient of the input; the gradient of the weight stays bf16.

    y = x w^T      x and w by rows (tokens, outputs)        dx = (dy s) (w / s)      dw = dy^T x in bf16

Each row of x, w and dy has a scale of its own, found as it is cast ("rowwise" scaling). A scale belongs to what a product does not sum
over, and dx sums over the outputs: so the scales s of w's rows go into dy before it is cast, and the forward's fp8 weight serves the
backward too. All three are e4m3: with a scale a row its range suffices for gradients as well, and it has one mantissa bit more than e5m2.
torchao's recipe `rowwise_with_gw_hp` chooses the same and keeps the gradient of the weight, which sums over all tokens, in bf16 too.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from adam.contract.model import ModelConfig, projections
from adam.trainer.ops.fp8_cast import STEP, cast_plainly, cast_rows, transposed
from adam.trainer.ops.native_linear import NativeLinear, multiply_wide

OLDEST = (8, 9)  # compute capability of the first GPUs that multiply fp8


class Fp8Linear(NativeLinear):
    """`nn.Linear` without bias, in fp8. Parameters stay fp32; the input is rounded to bf16 first, and the output is bf16."""

    def parts(self, input: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
        """The output in parts along its last dimension, of these sizes: at most three. Differentiable once."""
        with torch.autocast(input.device.type, enabled=False):
            found: tuple[Tensor, ...] = _Product.apply(input.to(torch.bfloat16), self.weight, sizes)
        return found


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
        x8, x_scales = cast_rows(x.flatten(0, -2))
        w8, w_scales = cast_rows(weight)
        ctx.save_for_backward(x, w8, w_scales)
        whole = _multiply(x8, w8, x_scales, w_scales).view(*x.shape[:-1], -1)
        made: tuple[Tensor, ...] = whole.split(sizes, dim=-1)
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_parts: Tensor) -> tuple[Tensor | None, ...]:
        x, w8, w_scales = ctx.saved_tensors
        flat, dys = x.flatten(0, -2), [d_part.flatten(0, -2).contiguous() for d_part in d_parts]
        fit = all(dy.shape[1] % STEP == 0 for dy in dys)
        d8, d_scales = cast_rows(*(dys if fit else [torch.cat(dys, dim=1)]), factors=w_scales.flatten())
        ones = torch.ones(flat.shape[1], 1, dtype=torch.float32, device=x.device)
        d_weight = torch.empty(w8.shape, dtype=torch.float32, device=x.device)
        for dy, rows in zip(dys, d_weight.split([dy.shape[1] for dy in dys]), strict=True):
            multiply_wide(dy.t(), flat, rows)
        return _multiply(d8, transposed(w8), d_scales, ones).view_as(x), d_weight, None


def _multiply(a: Tensor, b: Tensor, a_scales: Tensor, b_scales: Tensor) -> Tensor:
    """(a a_scales) (b b_scales)^T in bf16. a: (M, K), b: (N, K) e4m3; scales (M, 1) and (N, 1)."""
    # The row-wise kernels of Hopper are fast with fast accumulation only: sums of 128 products go to fp32 less often.
    return torch._scaled_mm(a, b.t(), a_scales, b_scales.t(), out_dtype=torch.bfloat16, use_fast_accum=True)


def misfit(model: ModelConfig) -> str:
    """What of a model's shape fp8 products do not take; empty: nothing."""
    for name, (outputs, inputs) in projections(model).items():
        if outputs % STEP or inputs % STEP:
            return f"{name} is {outputs} x {inputs}, and products of fp8 take multiples of {STEP}"
    return ""


def unusable() -> str:
    """Why this machine's GPU can't be used for fp8; empty: it can, and casts as it should."""
    if not torch.cuda.is_available():
        return "it needs an NVIDIA GPU"
    capability = torch.cuda.get_device_capability()
    if capability < OLDEST:
        name = torch.cuda.get_device_name()
        return f"it needs a GPU of sm_{OLDEST[0]}{OLDEST[1]} or later, this {name} is sm_{capability[0]}{capability[1]}"
    return wrong("cuda")


def wrong(device: str) -> str:
    """What a cast and a product do otherwise than plain torch; empty: nothing."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(48, 160, generator=generator).to(device)
    factors = torch.rand(160, generator=generator).to(device)
    for what, given in (("fp32", x), ("bf16", x.bfloat16())):
        found, scales = cast_rows(given, factors=factors)
        right, right_scales = cast_plainly(given, factors)
        same = torch.equal(found.view(torch.uint8), right.view(torch.uint8)) and torch.equal(scales, right_scales)
        if not same or not torch.equal(transposed(found).view(torch.uint8), right.view(torch.uint8).t()):
            return f"its cast from {what} does not give what plain torch does"
    a, a_scales = cast_rows(x)
    product = _multiply(a, a, a_scales, a_scales).double()
    exact = (a.double() * a_scales) @ (a.double() * a_scales).t()
    distance = float((product - exact).norm() / exact.norm())
    return "" if distance < 1e-2 else f"a product of fp8 is {distance:.1e} off"
