"""How sure a model is of its predictions."""

import math

import pytest
import torch

from adam.trainer import evaluate
from adam.trainer.evaluate import sureness


def test_unsure_of_everything_and_sure_of_one() -> None:
    even = sureness(torch.full((2, 3, 50), 2.0))
    assert even.entropy == pytest.approx(math.log(50)) and even.logits_norm == pytest.approx(math.sqrt(50 * 4))
    one = torch.zeros(1, 4, 50)
    one[..., 7] = 200.0
    assert sureness(one).entropy == pytest.approx(0.0, abs=1e-6) and sureness(one).logits_norm == 200.0


def test_chunks_change_nothing_and_half_precision_little(monkeypatch) -> None:
    logits = torch.randn(3, 7, 40, generator=torch.Generator().manual_seed(1)) * 3
    whole = sureness(logits)
    expected = torch.distributions.Categorical(logits=logits.double()).entropy().mean()
    assert whole.entropy == pytest.approx(float(expected), rel=1e-6)
    monkeypatch.setattr(evaluate, "CHUNK", 4)
    assert sureness(logits) == pytest.approx(whole, rel=1e-12)
    assert sureness(logits.bfloat16()) == pytest.approx(whole, rel=0.01)
