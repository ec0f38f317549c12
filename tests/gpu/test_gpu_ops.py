"""The native operations beside the scan on a GPU: equal to the reference, the same bits twice, at odd sizes and at a 2.7B model's."""

from functools import partial

import op_checks
import pytest
import torch
from op_checks import On, add_norm, conv, first_norm, gated_norm, loss, ssd

from adam.contract.model import ModelConfig, resolved
from adam.trainer.model.lm import MambaLM
from adam.trainer.ops import native_loss
from adam.trainer.ops.native import NativeOps
from adam.trainer.ops.native_linear import NativeLinear, parts
from adam.trainer.ops.reference import ReferenceOps

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
SINGLE = On("cuda", torch.float32, 1e-5)
HALF = On("cuda", torch.bfloat16, 1e-2)
OTHER_HALF = On("cuda", torch.float16, 2e-3)
SMALL = {
    "conv": partial(conv, 2, 37, 12, 4),
    "conv of 2": partial(conv, 3, 130, 516, 2),
    "conv of 3": partial(conv, 1, 65, 6, 3),
    "conv without": partial(conv, 2, 1, 4, 4, documents=False, bias=False),
    "add_norm": partial(add_norm, 2, 7, 12),
    "add_norm, wide": partial(add_norm, 300, 2, 2560),
    "add_norm, widest": partial(add_norm, 1, 2, 12288),
    "first_norm": partial(first_norm, 2, 3, 260),
    "gated_norm": partial(gated_norm, 2, 7, 16, 2),
    "gated_norm, wide": partial(gated_norm, 3, 200, 5120, 1),
    "gated_norm, groups": partial(gated_norm, 2, 9, 5120, 8),
    "loss": partial(loss, 2, 7, 64, 40),
    "loss of many words": partial(loss, 1, 33, 64, 50280),
}


@pytest.mark.parametrize("on", [SINGLE, HALF, OTHER_HALF], ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("case", SMALL)
def test_it_equals_the_reference(case: str, on: On) -> None:
    on.equals_the_reference(SMALL[case]())


@pytest.mark.parametrize(
    "on", [On("cuda", torch.bfloat16, 2e-2), On("cuda", torch.float16, 3e-3)], ids=["bf16", "fp16"]
)
@pytest.mark.parametrize(
    "shape", [(1, 40, 2, 1, 16), (2, 200, 4, 2, 32), (1, 129, 18, 1, 16), (2, 300, 24, 3, 128), (1, 1100, 16, 1, 128)]
)
@pytest.mark.parametrize("documents", [False, True])
def test_the_duality(shape: tuple[int, ...], on: On, documents: bool) -> None:
    on.equals_the_reference(ssd(*shape, documents=documents))


@pytest.mark.parametrize(
    "check",
    [
        op_checks.packed_documents_equal_documents_apart,
        op_checks.a_reset_forgets_all_at_any_decay,
        op_checks.the_bits_do_not_hang_on_what_is_kept,
    ],
)
def test_what_the_duality_must_do(check) -> None:
    check(HALF)


@pytest.mark.parametrize("kept", [0, 1 << 31])
@pytest.mark.parametrize("chunk", [5 * 2 * 1000, 1 << 30])
def test_the_loss_however_it_is_cut(kept: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_loss, "KEPT_BYTES", kept)
    monkeypatch.setattr(native_loss, "CHUNK_BYTES", chunk)
    SINGLE.equals_the_reference(loss(2, 7, 64, 1000))
    HALF.equals_the_reference(loss(2, 7, 64, 1000))


@pytest.mark.parametrize(
    "case",
    [
        partial(conv, 4, 2048, 5120, 4),
        partial(add_norm, 4, 2048, 2560),
        partial(gated_norm, 4, 2048, 5120, 1),
        partial(loss, 4, 2048, 256, 50280),
        partial(ssd, 4, 2048, 80, 1, 128),
    ],
    ids=["conv", "add_norm", "gated_norm", "loss", "ssd"],
)
def test_the_same_bits_twice_at_the_size_of_a_large_model(case) -> None:
    HALF.comes_out_the_same_twice(case())


def test_logits_beyond_four_gigabytes() -> None:
    """Where they lie takes more than 32 bits; chunks of 1 GiB, none kept."""
    tokens, words = 44_000, 50_280
    g = torch.Generator("cuda").manual_seed(0)
    hidden = torch.randn(tokens, 64, device="cuda", generator=g).bfloat16().requires_grad_()
    weight = torch.randn(words, 64, device="cuda", generator=g).requires_grad_()
    targets = torch.randint(0, words, (tokens,), device="cuda", generator=g)
    losses = native_loss.cross_entropy(hidden, weight, targets)
    last = slice(tokens - 100, tokens)
    logits = (hidden[last] @ weight.bfloat16().t()).float()
    right = torch.nn.functional.cross_entropy(logits, targets[last], reduction="none")
    torch.testing.assert_close(losses[last], right, rtol=1e-4, atol=1e-4)
    (found,) = torch.autograd.grad(losses[last].sum(), hidden)
    (wanted,) = torch.autograd.grad(right.sum(), hidden)
    assert float((found - wanted).float().norm() / wanted.float().norm()) < 1e-2


def test_kept_logits_beyond_two_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_loss, "KEPT_BYTES", 1 << 34)
    monkeypatch.setattr(native_loss, "CHUNK_BYTES", 1 << 33)
    test_logits_beyond_four_gigabytes()


@pytest.mark.parametrize(
    "check",
    [
        op_checks.gradients_stay_in_their_document,
        op_checks.slices_of_wider_rows_are_read_where_they_lie,
        op_checks.what_is_no_number_shows,
        op_checks.operators_are_what_torch_takes_them_for,
        op_checks.is_differentiable_once,
    ],
)
def test_what_is_asked_without_a_gpu_too(check) -> None:
    check(SINGLE)


def test_a_linear_layer_in_parts() -> None:
    torch.manual_seed(0)
    linear = NativeLinear(64, 96, bias=False, device="cuda")
    x = torch.randn(3, 50, 64, device="cuda", requires_grad=True)
    coming = [torch.randn(3, 50, size, device="cuda").bfloat16() for size in (64, 16, 16)]
    with torch.autocast("cuda", dtype=torch.bfloat16):
        found = parts(linear, x, [64, 16, 16])
    dx, dw = torch.autograd.grad(found, (x, linear.weight), coming)
    exact, weight = x.detach().bfloat16().double(), linear.weight.detach().bfloat16().double()
    whole = torch.cat(coming, -1).double()
    for a, b in (
        (torch.cat(found, -1).detach(), exact @ weight.t()),
        (dx, whole @ weight),
        (dw, whole.flatten(0, 1).t() @ exact.flatten(0, 1)),
    ):
        assert float((a.double() - b).norm() / b.norm()) < (1e-5 if a is dw else 1e-2)


@pytest.mark.parametrize("arch", ["mamba1", "mamba2"])
def test_a_whole_model_has_the_references_gradients(arch: str) -> None:
    """In bf16, documents and all; the reference's in fp32."""
    shape = resolved(ModelConfig(arch=arch, d_model=256, n_layer=3), 1000)
    tokens = torch.randint(1000, (2, 400), generator=torch.Generator().manual_seed(1)).cuda()
    resets = (torch.rand(2, 400, generator=torch.Generator().manual_seed(2)) < 0.02).cuda()
    found = []
    for ops, linear, half in ((NativeOps(), NativeLinear, True), (ReferenceOps(), torch.nn.Linear, False)):
        torch.manual_seed(0)
        model = MambaLM(shape, ops, linear).cuda()
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=half):
            losses = model.loss(tokens, tokens.roll(-1, 1), resets)
        losses.mean().backward()
        found.append((losses.detach(), {name: p.grad for name, p in model.named_parameters()}))
    (losses, ours), (exact, right) = found
    assert float((losses - exact).norm() / exact.norm()) < 2e-3
    for name, gradient in right.items():
        assert float((ours[name] - gradient).norm() / gradient.norm()) < 0.05, name
