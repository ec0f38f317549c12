"""The loss in chunks equals the loss at once, gradients too, and holds less."""

import pytest
import torch
import torch.nn.functional as F

from adam.trainer.ops import cross_entropy as module
from adam.trainer.ops.reference import ReferenceOps

OPS = ReferenceOps()
TOKENS, WIDTH, VOCABULARY = 2 * 7, 5, 11
ONE_TOKEN = 4 * VOCABULARY  # bytes of its logits


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 7, WIDTH, generator=g, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, generator=g, dtype=torch.float64, requires_grad=True)
    return hidden, weight, torch.randint(0, VOCABULARY, (2, 7), generator=g)


@pytest.mark.parametrize("chunk_bytes", [1, ONE_TOKEN, 5 * ONE_TOKEN, 13 * ONE_TOKEN, 14 * ONE_TOKEN])
def test_chunks_change_nothing(chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk_bytes)
    hidden, weight, targets = inputs()
    losses = OPS.cross_entropy(hidden, weight, targets)
    wanted = -(hidden @ weight.t()).log_softmax(-1).gather(2, targets.unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(losses, wanted)
    shares = torch.arange(1.0, 15.0, dtype=torch.float64).view(2, 7)  # a gradient of its own for each token
    found = torch.autograd.grad((losses * shares).sum(), (hidden, weight))
    torch.testing.assert_close(found, torch.autograd.grad((wanted * shares).sum(), (hidden, weight)))
    assert torch.autograd.gradcheck(lambda h, w: OPS.cross_entropy(h, w, targets), (hidden, weight))


def test_no_tensor_is_larger_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 3 * ONE_TOKEN)
    seen = []
    logits = module._logits
    monkeypatch.setattr(module, "_logits", lambda *operands: seen.append(result := logits(*operands)) or result)
    hidden, weight, targets = inputs()
    OPS.cross_entropy(hidden, weight, targets).sum().backward()
    assert [len(part) for part in seen] == [3, 3, 3, 3, 2] * 2


@pytest.mark.parametrize("chunk_bytes", [3 * ONE_TOKEN, 1 << 28])
def test_autocast_multiplies_in_half_precision_and_sums_in_single(
    chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk_bytes)
    hidden, weight = (value.detach().float().requires_grad_() for value in inputs()[:2])
    targets = inputs()[2]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = OPS.cross_entropy(hidden, weight, targets)
        plain = F.linear(hidden, weight)
    assert losses.dtype == torch.float32
    wanted = F.cross_entropy(plain.float().flatten(0, 1), targets.flatten(), reduction="none")
    torch.testing.assert_close(losses.flatten(), wanted)
    found = torch.autograd.grad(losses.sum(), (hidden, weight))
    assert all(value.dtype == torch.float32 for value in found)
    for value, exact in zip(found, torch.autograd.grad(wanted.sum(), (hidden, weight)), strict=True):
        torch.testing.assert_close(value, exact, rtol=0.02, atol=0.02)
