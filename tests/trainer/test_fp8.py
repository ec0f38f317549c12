"""Linear layers in fp8: the cast to rows with scales, products and their gradients, the kernels on a CPU, and what is refused."""

from contextlib import nullcontext

import cuda_on_cpu
import msgspec
import pytest
import torch
from torch import nn

from adam.contract.config import Trainer
from adam.contract.errors import ConfigError
from adam.contract.model import PRESETS, ModelConfig, projections, resolved
from adam.contract.records import Plan
from adam.trainer import runtime
from adam.trainer.model.lm import MambaLM
from adam.trainer.ops import fp8, fp8_cast
from adam.trainer.ops.fp8 import Fp8Linear, misfit, unusable
from adam.trainer.ops.fp8_cast import FP8, cast_rows, transposed
from adam.trainer.ops.nvrtc import compile_kernels
from adam.trainer.ops.reference import ReferenceOps
from adam.trainer.runtime import Runtime, set_up


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.uint8)


def test_a_cast_is_right_to_half_a_step_of_three_mantissa_bits() -> None:
    x = drawn(50, 64) * torch.logspace(-20, 20, 50).unsqueeze(1)  # rows of any magnitude
    found, scales = cast_rows(x)
    assert found.dtype == FP8 and scales.shape == (50, 1)
    back = found.float() * scales
    step = x.abs().amax(1, keepdim=True) / 448 * 2**-9  # between the smallest numbers of e4m3
    assert ((back - x).abs() <= x.abs() / 16 + step).all()
    assert (found.float().abs().amax(1) == 448).all()


def test_columns_are_multiplied_before() -> None:
    x, factors = drawn(7, 32, dtype=torch.bfloat16), drawn(32, seed=1).abs()
    found, scales = cast_rows(x, factors=factors)
    right, right_scales = cast_rows(x.float() * factors)
    assert torch.equal(bits(found), bits(right)) and torch.equal(scales, right_scales)


def test_zeros_stay_zeros_and_what_is_not_finite_shows() -> None:
    x = torch.zeros(3, 16)
    x[1, 2], x[2, 3] = torch.nan, torch.inf
    found, scales = cast_rows(x)
    back = found.float() * scales
    assert torch.equal(back[0], torch.zeros(16)) and back[1].isnan().any() and back[2].isnan().any()


@pytest.mark.parametrize("x", [torch.zeros(2, 24), torch.zeros(2, 16, dtype=torch.float64)])
def test_other_shapes_and_types_are_refused(x: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="can't be cast to fp8"):
        cast_rows(x)


def test_parts_are_cast_side_by_side() -> None:
    x = drawn(5, 96, dtype=torch.bfloat16)
    right, right_scales = cast_rows(x)
    for sizes in ([32, 64], [16, 64, 16]):
        found, scales = cast_rows(*x.split(sizes, dim=1))
        assert torch.equal(bits(found), bits(right)) and torch.equal(scales, right_scales)
    with pytest.raises(ValueError, match="can't be cast"):
        cast_rows(*x.split([8, 88], dim=1))


def test_parts_of_an_output_have_the_gradients_of_the_whole() -> None:
    layer, x, dy = Fp8Linear(32, 96, bias=False), drawn(2, 5, 32), drawn(2, 5, 96, seed=1).bfloat16()
    found = []
    for sizes in ([96], [32, 48, 16], [40, 56]):
        layer.weight.grad, given = None, x.clone().requires_grad_()
        parts = layer.parts(given, sizes)
        assert [part.shape[-1] for part in parts] == sizes
        torch.autograd.backward(parts, dy.split(sizes, dim=-1))
        found.append([torch.cat(parts, -1).detach(), given.grad, layer.weight.grad])
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_a_linear_layer_and_its_gradients() -> None:
    layer, exact = Fp8Linear(96, 160, bias=False), nn.Linear(96, 160, bias=False)
    exact.load_state_dict(layer.state_dict())
    x, dy = drawn(2, 40, 96), drawn(2, 40, 160, seed=1) * 1e-9  # as small as gradients of a mean are
    given = [x.clone().requires_grad_() for _ in range(2)]
    outs = [layer(given[0]), exact(given[1])]
    assert outs[0].dtype == torch.bfloat16
    torch.autograd.backward(outs, [dy.bfloat16(), dy])
    pairs = [
        (outs[0].detach(), outs[1].detach()),
        (given[0].grad, given[1].grad),
        (layer.weight.grad, exact.weight.grad),
    ]
    distances = [float((a.float() - b).norm() / b.norm()) for a, b in pairs]
    # 2^-4 at most of each number, 2^-5.8 in the mean square, of two factors; the gradient of the weight is bf16's.
    assert 0 < distances[0] < 0.05 and distances[1] < 0.05 and distances[2] < 0.01
    assert layer.weight.grad.dtype == torch.float32


def test_the_same_bits_twice() -> None:
    layer, x = Fp8Linear(32, 48, bias=False), drawn(4, 5, 32)
    found = []
    for _ in range(2):
        layer.weight.grad = None
        y = layer(x)
        y.float().square().sum().backward()
        found.append((y.detach(), layer.weight.grad.clone()))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("arch", ["mamba1", "mamba2"])
def test_a_model_has_the_same_weights_and_nearly_the_same_loss(arch: str) -> None:
    shape = resolved(ModelConfig(arch=arch, d_model=64, n_layer=2, d_state=16, headdim=8), 64)
    models = []
    for linear in (Runtime("cpu", "bf16", "torch", 1, 1).linear, Runtime("cpu", "fp8", "torch", 1, 1).linear):
        torch.manual_seed(0)
        models.append(MambaLM(shape, ReferenceOps(), linear))
    plain, fp8s = models
    assert all(torch.equal(value, fp8s.state_dict()[name]) for name, value in plain.state_dict().items())
    assert sum(isinstance(module, Fp8Linear) for module in fp8s.modules()) == 4
    assert not any(isinstance(module, Fp8Linear) for module in plain.modules())
    tokens = torch.randint(64, (2, 33), generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = [model.loss(tokens[:, :-1], tokens[:, 1:], None).mean() for model in models]
    assert 0 < abs(losses[0].item() - losses[1].item()) < 0.02
    losses[1].backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in fp8s.parameters())


@pytest.fixture
def on_cpu(tmp_path, monkeypatch):
    """The kernels instead of plain torch."""
    if cuda_on_cpu.GXX is None:
        pytest.skip("no g++ to compile the kernels with")

    def launched(name: str, macros: tuple, device: object) -> cuda_on_cpu.Kernel:
        return cuda_on_cpu.Kernel(cuda_on_cpu.library(tmp_path, ("fp8.cu",), macros), name)

    monkeypatch.setattr(fp8_cast, "_kernel", launched)
    monkeypatch.setattr(fp8_cast, "on_gpu", lambda tensor: True)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("width", [16, 1040, 5120])
def test_the_kernel_casts_as_plain_torch(on_cpu, width: int, dtype: torch.dtype) -> None:
    x = (drawn(3, width) * torch.tensor([[1e-9], [1.0], [0.0]])).to(dtype)
    x[1, 3] = torch.nan
    for factors in (None, drawn(width, seed=1)):
        found, right = cast_rows(x, factors=factors), fp8_cast.cast_plainly(x, factors)
        assert torch.equal(bits(found[0]), bits(right[0])) and torch.equal(found[1], right[1])
        if width > 16:
            split = cast_rows(*x.split([16, width - 48, 32], dim=1), factors=factors)
            assert torch.equal(bits(split[0]), bits(right[0])) and torch.equal(split[1], right[1])


@pytest.mark.parametrize("shape", [(16, 16), (64, 128), (80, 176)])
def test_the_kernel_transposes(on_cpu, shape: tuple[int, int]) -> None:
    x = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(transposed(x), x.t())


def test_the_check_at_a_start_finds_a_wrong_cast(on_cpu, monkeypatch) -> None:
    assert fp8.wrong("cpu") == ""
    monkeypatch.setattr(fp8, "cast_plainly", lambda x, factors=None: fp8_cast.cast_plainly(x * 1.2, factors))
    assert "its cast from fp32" in fp8.wrong("cpu")


@pytest.mark.parametrize("architecture", ["sm_89", "sm_90", "sm_100", "sm_103", "sm_120"])
@pytest.mark.parametrize(("width", "element"), [(2560, 0), (10240, 0), (5120, 2), (32768, 0)])
def test_the_kernels_compile_without_spilling(architecture: str, width: int, element: int) -> None:
    threads, vectors = fp8_cast.block(width, 4 if element else 2)
    macros = {"ELEMENT": element, "THREADS": threads, "VECTORS": vectors}
    resources = compile_kernels(("fp8.cu",), macros, architecture).resources()
    assert set(resources) == {"cast_rows", "transpose_bytes"}
    assert all(kernel.spilled <= 16 and kernel.registers * threads <= 65536 for kernel in resources.values())


def test_shapes_that_do_not_fit_are_named() -> None:
    assert misfit(PRESETS["2.7b"]) == misfit(PRESETS["mamba2-2.7b"]) == ""
    assert misfit(PRESETS["mamba2-130m"]) == "in_proj is 3352 x 768, and products of fp8 take multiples of 16"
    for name, model in PRESETS.items():  # `projections` tells what the model is built of
        with torch.device("meta"):
            one = msgspec.structs.replace(model, n_layer=1, vocab_size=8, pad_vocab_multiple=8)
            mixer = MambaLM(resolved(one, 8), ReferenceOps()).backbone.layers[0].mixer
        for what, shape in projections(model).items():
            assert tuple(getattr(mixer, what).weight.shape) == shape, name


def test_what_is_refused_says_why(tmp_path, monkeypatch) -> None:
    config, kept = Trainer(precision="fp8", device="cpu", backend="torch"), tmp_path / "kernels.json"
    plan = Plan(program="trainer", attempt=1, token=1)
    before = torch.get_num_threads()
    try:
        with pytest.raises(ConfigError, match="'fp8' can't be used: training is on the CPU; set it to 'auto'"):
            set_up(config, ModelConfig(), plan, kept, {})
    finally:
        torch.set_num_threads(before)
        torch.set_deterministic_debug_mode("default")
    with pytest.raises(ConfigError, match=r"in_proj is 96 x 24, and products of fp8 take multiples of 16"):
        runtime.require_fp8(ModelConfig(d_model=24), "cuda")
    assert unusable() == "it needs an NVIDIA GPU"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "RTX A6000")
    assert unusable() == "it needs a GPU of sm_89 or later, this RTX A6000 is sm_86"
