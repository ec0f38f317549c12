"""The schedule and the optimizer's groups."""

import itertools
import subprocess
import sys

import adamw_checks
import cuda_on_cpu
import msgspec
import pytest
import torch

from adam.contract.config import Trainer
from adam.contract.model import ModelConfig, resolved
from adam.trainer.model.lm import MambaLM
from adam.trainer.ops.native_adamw import NativeAdamW
from adam.trainer.ops.reference import ReferenceOps
from adam.trainer.optim import apply_update, learning_rate, make_optimizer, moments, set_step

CONFIG = Trainer(steps=100, warmup_steps=10, decay_steps=50, lr=1.0, min_lr=0.1)


def test_the_schedule_warms_up_decays_and_stays() -> None:
    rates = [learning_rate(step, CONFIG) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[30] == pytest.approx(0.55)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert set(rates[50:]) == {0.1}


def test_no_warm_up_and_a_warm_up_longer_than_the_decay_work() -> None:
    assert learning_rate(0, msgspec.structs.replace(CONFIG, warmup_steps=0)) == 1.0
    assert learning_rate(80, msgspec.structs.replace(CONFIG, warmup_steps=60)) == 0.1


@pytest.mark.parametrize("arch", ["mamba1", "mamba2"])
def test_norms_biases_and_ssm_scalars_are_not_decayed(arch: str) -> None:
    shape = resolved(ModelConfig(arch=arch, d_model=32, n_layer=1, headdim=16), 64)
    model = MambaLM(shape, ReferenceOps())
    optimizer = make_optimizer(model, CONFIG)
    names = {parameter: name for name, parameter in model.named_parameters()}
    decayed, plain = ({names[p].rpartition("mixer.")[2] for p in group["params"]} for group in optimizer.param_groups)
    assert optimizer.param_groups[1]["weight_decay"] == 0.0
    assert {"in_proj.weight", "out_proj.weight", "conv1d.weight"} <= decayed
    assert {"A_log", "D", "conv1d.bias"} <= plain
    assert not [name for name in decayed if "bias" in name or "norm" in name or name in ("A_log", "D")]


def test_moments_exist_before_the_first_update_and_change_nothing() -> None:
    """A snapshot at step 0 has moments; making them must not change what AdamW then does."""
    weights = []
    for early in (True, False):
        torch.manual_seed(0)
        model = MambaLM(resolved(ModelConfig(d_model=16, n_layer=1, d_state=4), 32), ReferenceOps())
        optimizer = make_optimizer(model, CONFIG)
        if early:
            assert len(list(moments(model, optimizer))) == 2 * len(list(model.parameters()))
            set_step(optimizer, 0)
        tokens = torch.arange(32).view(2, 16)
        model.loss(tokens, tokens, None).sum().backward()
        optimizer.step()
        weights.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
    assert torch.equal(*weights)


def test_an_update_is_the_optimizers_own() -> None:
    models = []
    for step in (lambda optimizer: optimizer.step(), apply_update):
        torch.manual_seed(0)
        model = MambaLM(resolved(ModelConfig(d_model=16, n_layer=1, d_state=4), 32), ReferenceOps())
        optimizer = make_optimizer(model, Trainer())
        for number in range(3):
            torch.manual_seed(number)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape)
            step(optimizer)
        models.append(model)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)
        assert other.requires_grad


def test_training_imports_no_compiler() -> None:
    """torch._dynamo takes 1.2 s of each start, and nothing here uses it."""
    code = (
        "import sys, torch; from adam.contract.config import Trainer; from adam.trainer.optim import apply_update, make_optimizer\n"
        "from adam.contract.model import ModelConfig, resolved; from adam.trainer.model.lm import MambaLM\n"
        "from adam.trainer.ops.reference import ReferenceOps; import adam.trainer.attempt\n"
        "torch.set_deterministic_debug_mode('error')\n"
        "model = MambaLM(resolved(ModelConfig(d_model=16, n_layer=1, d_state=4), 32), ReferenceOps())\n"
        "optimizer = make_optimizer(model, Trainer())\n"
        "tokens = torch.zeros(1, 8, dtype=torch.int64)\n"
        "model.loss(tokens, tokens, tokens.bool()).sum().backward()\n"
        "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0); apply_update(optimizer); optimizer.zero_grad(set_to_none=True)\n"
        "print([name for name in ('torch._dynamo', 'torch._inductor', 'sympy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(cuda_on_cpu.GXX is None, reason="no g++ to compile the kernels with")
@pytest.mark.parametrize("check", adamw_checks.CHECKS)
def test_the_native_one_without_a_gpu(check, tmp_path_factory) -> None:
    with cuda_on_cpu.kernels_on_cpu(tmp_path_factory.getbasetemp()):
        check("cpu")


def test_the_native_one_is_for_whole_tensors_on_a_gpu() -> None:
    assert not NativeAdamW.takes([torch.zeros(3)])
