"""The native operations beside the scan without a GPU: the very kernels, compiled for the CPU (`cuda_on_cpu`). See test_gpu_ops.py."""

import cuda_on_cpu
import op_checks
import pytest
import torch
from op_checks import On, add_norm, conv, first_norm, gated_norm, loss, ssd

from adam.trainer.ops import native_loss, self_check_ops
from adam.trainer.ops.native import NativeOps

pytestmark = pytest.mark.skipif(cuda_on_cpu.GXX is None, reason="no g++ to compile the kernels with")
SINGLE = On("cpu", torch.float32, 1e-5)
HALF = On("cpu", torch.bfloat16, 1e-2)
OTHER_HALF = On("cpu", torch.float16, 2e-3)


@pytest.fixture(autouse=True, scope="module")
def compiled(tmp_path_factory):
    debug = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")  # new memory is NaN
    with cuda_on_cpu.kernels_on_cpu(tmp_path_factory.mktemp("kernels")):
        yield
    torch.set_deterministic_debug_mode(debug)


@pytest.mark.parametrize("taps", [2, 3, 4])
@pytest.mark.parametrize("shape", [(2, 37, 12), (1, 3, 8), (1, 130, 516), (2, 1, 4), (2, 66, 6), (1, 64, 4)])
def test_the_convolution(shape: tuple[int, int, int], taps: int) -> None:
    SINGLE.equals_the_reference(conv(*shape, taps))
    SINGLE.equals_the_reference(conv(*shape, taps, documents=False, bias=False))


@pytest.mark.parametrize("shape", [(2, 7, 12), (1, 3, 260), (1, 2, 2560), (600, 1, 8)])
def test_the_norms(shape: tuple[int, int, int]) -> None:
    SINGLE.equals_the_reference(add_norm(*shape))
    SINGLE.equals_the_reference(first_norm(*shape))
    for groups in (1, 2) if shape[2] % 8 == 0 else (1,):
        SINGLE.equals_the_reference(gated_norm(*shape, groups))


def test_widths_that_the_kernels_do_not_take() -> None:
    SINGLE.equals_the_reference(add_norm(2, 3, 6))
    SINGLE.equals_the_reference(gated_norm(2, 3, 12, 2))
    SINGLE.equals_the_reference(loss(2, 3, 8, 11))
    SINGLE.equals_the_reference(conv(2, 5, 8, 5))


@pytest.mark.parametrize("kept", [0, 1 << 31])
@pytest.mark.parametrize("chunk", [1, 40 * 4 * 4, 1 << 30])
def test_the_loss(kept: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_loss, "KEPT_BYTES", kept)
    monkeypatch.setattr(native_loss, "CHUNK_BYTES", chunk)
    SINGLE.equals_the_reference(loss(2, 7, 12, 40))
    HALF.equals_the_reference(loss(2, 7, 12, 40))


def test_the_loss_of_many_words() -> None:
    SINGLE.equals_the_reference(loss(1, 3, 8, 9000))


def test_a_target_that_is_no_word_shows() -> None:
    hidden, weight = op_checks.draw(1, 3, 8), op_checks.draw(12, 8, seed=1)
    losses = NativeOps().cross_entropy(hidden, weight, torch.tensor([[0, 12, -1]]))
    assert losses.isnan().tolist() == [[False, True, True]]


@pytest.mark.parametrize("on", [HALF, OTHER_HALF], ids=["bf16", "fp16"])
def test_half_precision(on: On) -> None:
    for case in (
        conv(2, 37, 12, 4),
        add_norm(2, 5, 260),
        first_norm(2, 5, 12),
        gated_norm(2, 5, 16, 2),
        loss(2, 3, 16, 40),
    ):
        on.equals_the_reference(case)


@pytest.mark.parametrize("shape", [(1, 40, 2, 1, 16), (2, 200, 4, 2, 32), (1, 129, 18, 1, 16)])
def test_the_duality(shape: tuple[int, ...]) -> None:
    On("cpu", torch.float16, 3e-3).equals_the_reference(ssd(*shape))
    On("cpu", torch.bfloat16, 2e-2).equals_the_reference(ssd(*shape, documents=False))


def test_the_duality_of_other_shapes_is_the_references() -> None:
    SINGLE.equals_the_reference(ssd(1, 20, 2, 1, 16))
    HALF.equals_the_reference(ssd(1, 20, 2, 1, 12))


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
def test_what_is_asked_of_a_gpu_too(check) -> None:
    check(SINGLE)


def test_the_self_check_asks_them_what_they_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    small = [check for check in self_check_ops.CHECKS if torch.Size(check.shapes["x"]).numel() < 50_000]
    monkeypatch.setattr(self_check_ops, "CHECKS", small)
    assert {check.name for check in self_check_ops.CHECKS} == {
        "causal_conv1d", "add_rms_norm", "gated_rms_norm", "ssd", "cross_entropy"
    }  # fmt: skip
    assert self_check_ops.check_ops(NativeOps(), "cpu", torch.bfloat16) == ""


def test_what_they_do_not_take() -> None:
    x, weight = torch.zeros(1, 4, 8), torch.zeros(8, 4)
    ops = NativeOps()
    for call, said in (
        (
            lambda: ops.causal_conv1d(x.double(), weight, None, None),
            r"causal_conv takes bfloat16, .* not torch.float64",
        ),
        (lambda: ops.causal_conv1d(x[:, :0], weight, None, None), r"nothing to do: its x is \(1, 0, 8\)"),
        (lambda: ops.causal_conv1d(x, weight[:4], None, None), r"weight is \(4, 4\) .* goes as \(8, 4\)"),
        (lambda: ops.causal_conv1d(x, weight, None, torch.zeros(1, 4)), r"resets is .* torch.float32 .* torch.bool"),
        (lambda: ops.add_rms_norm(x, x[:, :2], weight[:, 0], 1e-5), r"x is \(1, 4, 8\) .* goes as \(1, 2, 8\)"),
        (lambda: ops.gated_rms_norm(x, x[..., :4], torch.ones(8), 1e-5, 1), r"z is \(1, 4, 4\)"),
        (lambda: ops.cross_entropy(x, torch.zeros(12, 8), torch.zeros(1, 3, dtype=torch.int64)), r"targets is \(3,\)"),
    ):
        with pytest.raises(ValueError, match=said):
            call()
