"""Whether states of scans are kept, on a GPU: what is measured of one block tells what a step takes, and the bits are the same."""

import pytest
import torch

from adam.contract.config import Trainer
from adam.contract.model import ModelConfig, resolved
from adam.trainer.memory import STATE_BYTES, gpu_room, needed_bytes, settle_states
from adam.trainer.model.lm import MambaLM
from adam.trainer.ops.native import NativeOps
from adam.trainer.runtime import Runtime

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
RUNTIME = Runtime("cuda", "bf16", "native", 1, 4)
SHAPE = resolved(ModelConfig(d_model=512, n_layer=8), 4096)
LENGTH = 1024


def made(wanted: str, room: int) -> MambaLM:
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = MambaLM(SHAPE, NativeOps())
    settle_states(model, Trainer(recompute=wanted, seq_len=LENGTH), RUNTIME, room)
    return model


def gradients(model: MambaLM) -> list[torch.Tensor]:
    tokens = torch.randint(4096, (4, LENGTH), generator=torch.Generator().manual_seed(0)).cuda()
    with RUNTIME.autocast():
        loss = model.loss(tokens, tokens, None)
    loss.mean().backward()
    return [loss.detach(), *(parameter.grad for parameter in model.parameters())]


def test_the_bits_are_the_same() -> None:
    kept, recomputed = made("auto", 10**15), made("auto", 0)
    assert (kept.ops.recompute, recomputed.ops.recompute) == (False, True)
    assert all(torch.equal(a, b) for a, b in zip(gradients(kept), gradients(recomputed), strict=True))


@pytest.mark.parametrize("wanted", ["off", "on"])
def test_what_is_measured_of_a_block_is_what_a_forward_takes(wanted: str) -> None:
    model = made(wanted, gpu_room())
    tokens = torch.zeros(4, LENGTH, dtype=torch.int64, device="cuda")
    before = torch.cuda.memory_allocated()
    with RUNTIME.autocast():
        hidden = model.backbone(tokens, None)
    taken = torch.cuda.memory_allocated() - before
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert needed_bytes(model, LENGTH, RUNTIME) - STATE_BYTES * weights == pytest.approx(taken, rel=0.1)
    assert hidden.isfinite().all()
