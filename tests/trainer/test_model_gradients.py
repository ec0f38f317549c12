"""Gradients of the whole model: of packed documents as of the documents apart, and the same bits twice."""

import pytest
import torch

from adam.contract.model import ModelConfig, resolved
from adam.trainer.model.lm import MambaLM
from adam.trainer.ops.reference import ReferenceOps

VOCABULARY, LENGTH = 50, 24


def build(arch: str) -> MambaLM:
    torch.manual_seed(0)
    shape = ModelConfig(arch=arch, d_model=32, n_layer=2, d_state=8, headdim=16, chunk_size=8)  # type: ignore[arg-type]
    return MambaLM(resolved(shape, VOCABULARY), ReferenceOps())


def some_tokens(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(0, VOCABULARY, (batch, LENGTH + 1), generator=torch.Generator().manual_seed(1))
    return tokens[:, :-1], tokens[:, 1:]


def beginnings(batch: int, *places: int) -> torch.Tensor:
    resets = torch.zeros(batch, LENGTH, dtype=torch.bool)
    resets[0, list(places)] = True
    return resets


def gradients(model: MambaLM, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.mark.parametrize("arch", ["mamba1", "mamba2"])
def test_packed_documents_have_the_gradients_of_the_documents_apart(arch: str) -> None:
    model = build(arch).double()
    tokens, targets = some_tokens(1)
    packed = gradients(model, model.loss(tokens, targets, beginnings(1, 0, 9, 10)).sum())
    parts = slice(0, 9), slice(9, 10), slice(10, 24)
    apart = gradients(model, torch.stack([model.loss(tokens[:, p], targets[:, p], None).sum() for p in parts]).sum())
    torch.testing.assert_close(packed, apart)


@pytest.mark.parametrize("arch", ["mamba1", "mamba2"])
def test_two_runs_have_the_same_bits(arch: str) -> None:
    model = build(arch)
    tokens, targets = some_tokens(3)
    first, second = (gradients(model, model.loss(tokens, targets, beginnings(3, 5)).sum()) for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert all(value.abs().sum() > 0 for value in first.values())
