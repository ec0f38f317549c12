"""The native AdamW on a GPU: torch's numbers, the same bits twice, and what a trainer makes of it."""

import adamw_checks
import pytest
import torch

from adam.contract.config import Trainer
from adam.contract.model import ModelConfig, resolved
from adam.trainer.model.lm import MambaLM
from adam.trainer.ops.native import NativeOps
from adam.trainer.ops.native_adamw import NativeAdamW
from adam.trainer.optim import apply_update, clip_gradients, make_optimizer, moments, set_step

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


@pytest.mark.parametrize("check", adamw_checks.CHECKS)
def test_it_is_torchs(check) -> None:
    check("cuda")


@pytest.mark.parametrize("arch", ["mamba1", "mamba2"])
def test_a_model_trains_the_same_twice(arch: str) -> None:
    """Three updates of a small model in bf16, with the operations and the optimizer native; then the state of one is another's."""
    ends = []
    for _ in range(2):
        torch.manual_seed(0)
        with torch.device("cuda"):
            model = MambaLM(resolved(ModelConfig(arch=arch, d_model=128, n_layer=2), 512), NativeOps())
        optimizer = make_optimizer(model, Trainer())
        assert isinstance(optimizer, NativeAdamW)
        assert len(list(moments(model, optimizer))) == 2 * len(list(model.parameters()))
        set_step(optimizer, 0)
        tokens = torch.randint(512, (2, 300), device="cuda")
        resets = torch.rand(2, 300, device="cuda") < 0.02
        losses = []
        for _ in range(3):
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = model.loss(tokens, tokens.roll(-1, 1), resets).mean()
            loss.backward()
            losses.append(loss.detach())
            assert clip_gradients(model, optimizer, 1.0) > 0
            apply_update(optimizer)
            optimizer.zero_grad(set_to_none=True)
        assert losses[2] < losses[0]
        ends.append([*losses, *(p.detach() for p in model.parameters()), *(m for _, m in moments(model, optimizer))])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
