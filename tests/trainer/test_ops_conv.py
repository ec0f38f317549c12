"""The convolution's hand-written gradient, and that nothing leaks across a document's beginning."""

import pytest
import torch

from adam.trainer.ops.reference import ReferenceOps

OPS = ReferenceOps()


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


def beginnings(*places: int, length: int = 6) -> torch.Tensor:
    resets = torch.zeros(2, length, dtype=torch.bool)
    resets[0, list(places)] = True
    return resets


@pytest.mark.parametrize("taps", [2, 3, 4])
@pytest.mark.parametrize("resets", [None, beginnings(0, 2, 3), beginnings(5)])
def test_gradients(taps: int, resets: torch.Tensor | None) -> None:
    inputs = draw(2, 6, 3), draw(3, taps, seed=1), draw(3, seed=2)
    assert torch.autograd.gradcheck(lambda *values: OPS.causal_conv1d(*values, resets), inputs)


@pytest.mark.parametrize("length", [1, 2])
def test_gradients_of_sequences_shorter_than_the_window(length: int) -> None:
    inputs = draw(2, length, 3), draw(3, 4, seed=1)
    assert torch.autograd.gradcheck(lambda x, weight: OPS.causal_conv1d(x, weight, None, None), inputs)


def test_gradients_stay_in_their_document() -> None:
    x = draw(2, 6, 3)
    OPS.causal_conv1d(x, draw(3, 4, seed=1), draw(3, seed=2), beginnings(3))[0, 3:].sum().backward()
    assert x.grad is not None
    assert not x.grad[0, :3].any() and x.grad[0, 3:].all()


def test_half_precision_is_computed_in_single_and_given_back_in_half() -> None:
    x, weight, bias = (value.detach() for value in (draw(2, 6, 3), draw(3, 4, seed=1), draw(3, seed=2)))
    half = OPS.causal_conv1d(x.bfloat16(), weight.float(), bias.float(), None)
    assert half.dtype == torch.bfloat16
    single = OPS.causal_conv1d(x.bfloat16().float(), weight.float(), bias.float(), None)
    assert torch.equal(half, single.bfloat16())
