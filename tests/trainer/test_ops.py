"""The reference operations against the recurrences token by token in float64; gradients checked; nothing overflows."""

import pytest
import references
import torch

from adam.trainer.ops import scan as scan_module
from adam.trainer.ops.reference import ReferenceOps

OPS = ReferenceOps()


def scan_inputs(batch=2, length=13, channels=5, states=3, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    seq = (batch, length)
    return {
        "u": draw(*seq, channels), "delta": draw(*seq, channels), "A": -draw(channels, states).exp(),
        "B": draw(*seq, states), "C": draw(*seq, states), "D": draw(channels), "z": draw(*seq, channels),
        "delta_bias": draw(channels),
    }  # fmt: skip


def ssd_inputs(batch=2, length=13, heads=4, width=3, groups=2, states=5, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    seq = (batch, length)
    return {
        "x": draw(*seq, heads, width), "dt": draw(*seq, heads), "A": -draw(heads).exp(), "B": draw(*seq, groups, states),
        "C": draw(*seq, groups, states), "D": draw(heads), "dt_bias": draw(heads),
    }  # fmt: skip


def some_resets(batch=2, length=13, seed=0):
    return torch.rand(batch, length, generator=torch.Generator().manual_seed(seed)) < 0.25


RESETS = [None, some_resets(), torch.ones(2, 13, dtype=torch.bool), torch.zeros(2, 13, dtype=torch.bool)]


@pytest.mark.parametrize("resets", RESETS)
@pytest.mark.parametrize("chunk_bytes", [1, 1 << 9, 1 << 22])
def test_the_scan_equals_the_recurrence(resets, chunk_bytes, monkeypatch) -> None:
    monkeypatch.setattr(scan_module, "CHUNK_BYTES", chunk_bytes)
    inputs = scan_inputs()
    torch.testing.assert_close(
        OPS.selective_scan(**inputs, resets=resets), references.selective_scan(**inputs, resets=resets)
    )


@pytest.mark.parametrize("resets", RESETS)
@pytest.mark.parametrize("chunk_size", [1, 4, 5, 64])
def test_ssd_equals_the_recurrence(resets, chunk_size) -> None:
    inputs = ssd_inputs()
    torch.testing.assert_close(
        OPS.ssd(**inputs, resets=resets, chunk_size=chunk_size), references.ssd(**inputs, resets=resets)
    )


@pytest.mark.parametrize("resets", RESETS)
@pytest.mark.parametrize("taps", [2, 3, 4])
def test_the_convolution_equals_its_definition(resets, taps) -> None:
    g = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((2, 13, 5), (5, taps), (5,)))
    torch.testing.assert_close(
        OPS.causal_conv1d(x, weight, bias, resets), references.causal_conv1d(x, weight, bias, resets)
    )
    torch.testing.assert_close(
        OPS.causal_conv1d(x[:, :1], weight, bias, None), references.causal_conv1d(x[:, :1], weight, bias, None)
    )


@pytest.mark.parametrize("resets", [None, some_resets(2, 6, seed=3)])
@pytest.mark.parametrize("chunk_bytes", [1, 1 << 8, 1 << 22])
def test_gradients_of_the_scan(resets, chunk_bytes, monkeypatch) -> None:
    monkeypatch.setattr(scan_module, "CHUNK_BYTES", chunk_bytes)
    inputs = {name: value.requires_grad_() for name, value in scan_inputs(length=6, channels=3, states=2).items()}
    assert torch.autograd.gradcheck(lambda *values: OPS.selective_scan(*values, resets), tuple(inputs.values()))


@pytest.mark.parametrize("resets", [None, some_resets(2, 6, seed=3)])
def test_gradients_of_ssd(resets) -> None:
    inputs = {
        name: value.requires_grad_()
        for name, value in ssd_inputs(length=6, heads=2, width=2, groups=1, states=2).items()
    }
    assert torch.autograd.gradcheck(lambda *values: OPS.ssd(*values, resets, 4), tuple(inputs.values()))


def test_gradients_in_single_precision_equal_those_of_autograd_in_double() -> None:
    resets = some_resets(2, 40)
    exact = {name: value.requires_grad_() for name, value in scan_inputs(length=40).items()}
    single = {name: value.detach().float().requires_grad_() for name, value in exact.items()}
    references.selective_scan(**exact, resets=resets).square().sum().backward()
    OPS.selective_scan(**single, resets=resets).square().sum().backward()
    for name in exact:
        torch.testing.assert_close(
            single[name].grad.double(), exact[name].grad, rtol=1e-3, atol=1e-4 * float(exact[name].grad.abs().max())
        )


def test_mamba_1_and_mamba_2_agree_where_they_overlap() -> None:
    """One decay per head, shared by all states: the two recurrences are then the same."""
    inputs = ssd_inputs(heads=4, width=3, groups=1, states=5)
    resets = some_resets()
    two = OPS.ssd(**inputs, resets=resets, chunk_size=4)
    each = {name: inputs[name].repeat_interleave(3, dim=-1) for name in ("dt", "D", "dt_bias")}
    open_gate = torch.full((2, 13, 12), 60.0, dtype=torch.float64)  # SiLU(60) = 60
    one = OPS.selective_scan(
        inputs["x"].flatten(2), each["dt"], inputs["A"].repeat_interleave(3)[:, None].expand(-1, 5), inputs["B"].squeeze(2),
        inputs["C"].squeeze(2), each["D"], open_gate, each["dt_bias"], resets,
    )  # fmt: skip
    torch.testing.assert_close(one / 60, two.flatten(2))


@pytest.mark.parametrize("step", [-30.0, 0.0, 30.0])
def test_long_sequences_and_extreme_steps_stay_finite(step) -> None:
    one = {name: value.requires_grad_() for name, value in scan_inputs(1, 2048, 4, 4, torch.float32).items()}
    two = {name: value.requires_grad_() for name, value in ssd_inputs(1, 2048, 2, 4, 1, 4, torch.float32).items()}
    results = [
        (OPS.selective_scan(**{**one, "delta": one["delta"] + step}, resets=None), one),
        (OPS.ssd(**{**two, "dt": two["dt"] + step}, resets=some_resets(1, 2048), chunk_size=256), two),
    ]
    for out, inputs in results:
        out.sum().backward()
        assert out.isfinite().all()
        assert all(value.grad.isfinite().all() for value in inputs.values())


def test_two_runs_are_equal_bit_for_bit() -> None:
    def run():
        inputs = {name: value.requires_grad_() for name, value in scan_inputs(4, 128, 96, 16, torch.float32).items()}
        out = OPS.selective_scan(**inputs, resets=some_resets(4, 128))
        out.square().sum().backward()
        return [out, *(value.grad for value in inputs.values())]

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)


def test_the_gated_norm_is_by_group() -> None:
    g = torch.Generator().manual_seed(0)
    x, z, weight = torch.randn(2, 3, 8, generator=g), torch.randn(2, 3, 8, generator=g), torch.randn(8, generator=g)
    out = OPS.gated_rms_norm(x, z, weight, 1e-5, 2)
    gated = x * z * torch.sigmoid(z)
    for part in (slice(0, 4), slice(4, 8)):
        wanted = gated[..., part] / (gated[..., part].pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight[part]
        torch.testing.assert_close(out[..., part], wanted)


def test_results_have_the_dtype_of_the_input_and_single_precision_inside() -> None:
    exact = scan_inputs(2, 64, 8, 4)
    wanted = references.selective_scan(**exact, resets=None)
    half = {name: value.to(torch.bfloat16) if value.ndim == 3 else value.float() for name, value in exact.items()}
    out = OPS.selective_scan(**half, resets=None)
    assert out.dtype == torch.bfloat16
    assert (out.double() - wanted).abs().max() < 0.1 * wanted.abs().max()
