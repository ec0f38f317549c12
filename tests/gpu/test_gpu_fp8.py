"""Linear layers in fp8 on a GPU: the kernels give plain torch's bits, products are near, and a step has the same bits twice."""

import pytest
import torch
from torch import nn

from adam.contract.model import ModelConfig, resolved
from adam.trainer.model.lm import MambaLM
from adam.trainer.ops.backends import make_ops
from adam.trainer.ops.fp8 import OLDEST, Fp8Linear, unusable
from adam.trainer.ops.fp8_cast import cast_plainly, cast_rows, transposed
from adam.trainer.runtime import Runtime

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
    pytest.mark.skipif(
        torch.cuda.is_available() and torch.cuda.get_device_capability() < OLDEST, reason="a GPU that has no fp8"
    ),
]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, device="cuda", generator=torch.Generator("cuda").manual_seed(seed))


def test_the_check_at_a_start_passes() -> None:
    assert unusable() == ""


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("width", [16, 2560, 5120, 10240])
def test_the_kernel_casts_as_plain_torch(width: int, dtype: torch.dtype) -> None:
    x = (drawn(300, width) * torch.logspace(-25, 25, 300, device="cuda").unsqueeze(1)).to(dtype)
    x[0], x[1, 3] = 0, torch.nan
    for factors in (None, drawn(width, seed=1)):
        found, right = cast_rows(x, factors=factors), cast_plainly(x, factors)
        assert torch.equal(found[0].view(torch.uint8), right[0].view(torch.uint8)) and torch.equal(found[1], right[1])
        if width > 16:
            split = cast_rows(*x.split([16, width - 48, 32], dim=1), factors=factors)
            assert torch.equal(split[0].view(torch.uint8), right[0].view(torch.uint8))
    assert torch.equal(transposed(found[0][:288]).view(torch.uint8), found[0][:288].view(torch.uint8).t())


def test_a_layer_and_its_gradients_are_near_to_fp32s_and_the_same_twice() -> None:
    layer, exact = (kind(2560, 10240, bias=False, device="cuda") for kind in (Fp8Linear, nn.Linear))
    exact.load_state_dict(layer.state_dict())
    x, dy, found = drawn(2, 1000, 2560), drawn(2, 1000, 10240, seed=1) * 1e-10, []
    for which in (layer, layer, exact):
        which.weight.grad = None
        given = x.clone().requires_grad_()
        out = which(given)
        out.backward(dy.to(out.dtype))
        found.append([out.detach(), given.grad, which.weight.grad])
    first, again, right = found
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    distances = [float((a.double() - b).norm() / b.double().norm()) for a, b in zip(first, right, strict=True)]
    assert max(distances[:2]) < 0.05 and distances[2] < 0.01


@pytest.mark.parametrize("arch", ["mamba1", "mamba2"])
def test_a_step_has_the_same_bits_twice(arch: str) -> None:
    shape = resolved(ModelConfig(arch=arch, d_model=256, n_layer=2, headdim=16), 512)
    runtime = Runtime("cuda", "fp8", "native", 1, 1)
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = MambaLM(shape, make_ops("native"), runtime.linear)
    tokens = torch.randint(512, (2, 257), generator=torch.Generator().manual_seed(0)).cuda()
    steps = []
    for _ in range(2):
        model.zero_grad()
        with runtime.autocast():
            loss = model.loss(tokens[:, :-1], tokens[:, 1:], None).mean()
        loss.backward()
        steps.append([loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*steps, strict=True))
    assert all(value.isfinite().all() for value in steps[0])
