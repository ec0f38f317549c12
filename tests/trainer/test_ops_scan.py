"""What is particular to the scan: chunks, its decays, autocast. That it equals the recurrence is in test_ops.py."""

import pytest
import references
import torch

from adam.trainer.ops import scan as module
from adam.trainer.ops.reference import ReferenceOps

OPS = ReferenceOps()
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")


def inputs(batch: int, length: int, channels: int, states: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    sequence, each = (batch, length, channels), (batch, length, states)
    shapes = (sequence, sequence, (channels, states), each, each, (channels,), sequence, (channels,))
    values = {name: torch.randn(*shape, generator=g).to(dtype) for name, shape in zip(NAMES, shapes, strict=True)}
    values["A"] = -values["A"].exp()
    return {name: value.requires_grad_() for name, value in values.items()}


def both_ways(
    values: dict[str, torch.Tensor], resets: torch.Tensor | None
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    out = OPS.selective_scan(**values, resets=resets)
    return out, torch.autograd.grad(out.square().sum(), tuple(values.values()))


def test_gradients_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    values = inputs(2, 50, 6, 3, torch.float64)
    resets = torch.rand(2, 50, generator=torch.Generator().manual_seed(1)) < 0.1
    results = []
    for tokens in (1, 7, 49, 50):
        monkeypatch.setattr(module, "CHUNK_BYTES", tokens * 2 * 6 * 3 * 8)
        results.append(both_ways(values, resets))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


def test_gradients_of_packed_documents_equal_those_of_the_documents_apart() -> None:
    values = inputs(1, 40, 6, 3, torch.float64)
    resets = torch.zeros(1, 40, dtype=torch.bool)
    resets[0, [11, 12, 31]] = True
    out, gradients = both_ways(values, resets)
    pieces = []
    for part in (slice(0, 11), slice(11, 12), slice(12, 31), slice(31, 40)):
        piece = {name: value[:, part] if value.ndim == 3 else value for name, value in values.items()}
        pieces.append(OPS.selective_scan(**piece, resets=None))
    apart = torch.cat(pieces, 1)
    torch.testing.assert_close(out, apart)
    torch.testing.assert_close(gradients, torch.autograd.grad(apart.square().sum(), tuple(values.values())))


@pytest.mark.parametrize("rate", [1e-30, 1e-3, 1e3])
def test_a_reset_forgets_all_at_any_decay(rate: float) -> None:
    """The step that stands for a reset must be long enough for the slowest decay, and not be NaN for the fastest."""
    values = {name: value.detach() for name, value in inputs(1, 6, 4, 2, torch.float32).items()}
    values["A"] = torch.full_like(values["A"], -rate)
    resets = torch.tensor([[False, False, False, True, False, False]])
    after = {name: value[:, 3:] if value.ndim == 3 else value for name, value in values.items()}
    found = OPS.selective_scan(**values, resets=resets)[:, 3:]
    torch.testing.assert_close(found, OPS.selective_scan(**after, resets=None), rtol=1e-6, atol=1e-6)


def test_a_long_sequence_in_single_precision_is_near_the_exact_one() -> None:
    """Slow decays add up rounding over the sequence; 4,096 tokens are half the window that people train with."""
    values = inputs(1, 4096, 3, 2, torch.float32)
    exact = {name: value.detach().double().requires_grad_() for name, value in values.items()}
    slow = {"delta": values["delta"] - 6}
    slow_exact = {"delta": exact["delta"] - 6}
    out, gradients = both_ways(values | slow, None)
    wanted = references.selective_scan(**(exact | slow_exact), resets=None)
    wanted_gradients = torch.autograd.grad(wanted.square().sum(), tuple((exact | slow_exact).values()))
    for found, right in zip((out, *gradients), (wanted, *wanted_gradients), strict=True):
        assert (found - right).abs().max() < 1e-4 * right.abs().max()


def test_autocast_changes_nothing() -> None:
    values = inputs(2, 20, 6, 3, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = OPS.selective_scan(**values, resets=None)
    found = torch.autograd.grad(out.square().sum(), tuple(values.values()))
    wanted, gradients = both_ways(values, None)
    assert all(torch.equal(a, b) for a, b in zip((out, *found), (wanted, *gradients), strict=True))


def test_gradients_that_are_not_contiguous() -> None:
    """What comes back from a sum is one number, expanded; from a transposition, strided."""
    values = inputs(2, 9, 6, 3, torch.float64)
    out = OPS.selective_scan(**values, resets=None)
    plain = torch.autograd.grad(out, tuple(values.values()), torch.ones_like(out), retain_graph=True)
    expanded = torch.autograd.grad(out.sum(), tuple(values.values()), retain_graph=True)
    strided = torch.autograd.grad((out.transpose(0, 2) * 1).sum(), tuple(values.values()))
    torch.testing.assert_close(expanded, plain)
    torch.testing.assert_close(strided, plain)
