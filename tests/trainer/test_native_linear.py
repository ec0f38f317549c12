"""The linear layer that hands its output on in parts: torch's numbers, and gradients in fp32."""

import pytest
import torch
from torch import nn

from adam.trainer.ops.native_linear import NativeLinear, parts


def pair() -> tuple[NativeLinear, nn.Linear, torch.Tensor]:
    torch.manual_seed(0)
    ours, plain = NativeLinear(24, 40, bias=False), nn.Linear(24, 40, bias=False)
    plain.load_state_dict(ours.state_dict())
    return ours, plain, torch.randn(2, 5, 24)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("sizes", [[40], [16, 16, 8]])
def test_it_is_torchs_own(half: bool, sizes: list[int]) -> None:
    ours, plain, x = pair()
    results = []
    for linear, dtype in ((ours, torch.float32), (plain.double(), torch.float64)):
        given = x.detach().to(dtype, copy=True).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half and linear is ours):
            found = parts(linear, given, sizes)
        assert [part.shape[-1] for part in found] == sizes
        assert all(part.dtype == (torch.bfloat16 if half and linear is ours else dtype) for part in found)
        torch.manual_seed(1)
        torch.autograd.backward(found, [torch.randn(part.shape).to(part) for part in found])
        results.append((torch.cat([part.detach().double() for part in found], -1), given.grad, linear.weight.grad))
    for a, b in zip(*results, strict=True):
        assert float((a.double() - b).norm() / b.norm()) < (1e-2 if half else 1e-6)


def test_the_weights_gradient_is_not_rounded() -> None:
    ours, _, x = pair()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = ours(x)
    out.sum().backward()
    exact = x.bfloat16().double().sum((0, 1))
    torch.testing.assert_close(ours.weight.grad[0].double(), exact, rtol=1e-6, atol=1e-6)


def test_parts_lie_in_one_output() -> None:
    ours, _, x = pair()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first, second = ours.parts(x, [16, 24])
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    assert first.stride() == second.stride() == (200, 40, 1)
