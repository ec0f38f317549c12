"""The native selective scan on a GPU: what every backend's must do, all its layouts, the same bits twice, and how it is chosen."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import scan_checks
import torch
from scan_checks import Scan

from adam.trainer.ops import backends, native_launch
from adam.trainer.ops.native import NativeOps
from adam.trainer.ops.native_launch import Chunks

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
SINGLE = Scan(NativeOps(), "cuda", torch.float32, 1e-5)
RECOMPUTED = Scan(NativeOps(recompute=True), "cuda", torch.float32, 1e-5)
HALF = Scan(NativeOps(), "cuda", torch.bfloat16, 2e-2)
# Many chunks of time in every way that they can go.
CUTS = {"one chunk": Chunks(704, 1, False), "handed on": Chunks(128, 6, False), "side by side": Chunks(128, 6, True)}


@pytest.mark.parametrize("states", [4, 5, 8, 16, 24, 32, 64])
@pytest.mark.parametrize("documents", [False, True])
def test_it_equals_the_recurrence(states: int, documents: bool) -> None:
    scan_checks.equals_the_recurrence(SINGLE, (2, 37, 70, states), documents=documents)


@pytest.mark.parametrize("shape", [(1, 1, 4, 16), (3, 8, 130, 16), (1, 17, 1, 16), (2, 300, 256, 16)])
@pytest.mark.parametrize("scan", [SINGLE, RECOMPUTED, HALF], ids=["kept", "recomputed", "bf16"])
def test_any_shape(shape: tuple[int, int, int, int], scan: Scan) -> None:
    scan_checks.equals_the_recurrence(scan, shape, documents=True)


def test_more_sequences_than_a_grid_has_rows() -> None:
    scan_checks.equals_the_recurrence(SINGLE, (65_537, 1, 1, 4), documents=False)


def test_half_precision_of_the_other_kind() -> None:
    scan_checks.equals_the_recurrence(Scan(NativeOps(), "cuda", torch.float16, 3e-3), (2, 50, 64, 16), documents=True)


@pytest.mark.parametrize("cut", CUTS)
def test_however_time_is_cut(cut: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_launch, "chunks", lambda *_: CUTS[cut])
    scan_checks.equals_the_recurrence(SINGLE, (2, 700, 68, 16), documents=False)
    scan_checks.equals_the_recurrence(SINGLE, (2, 700, 68, 16), documents=True)


@pytest.mark.parametrize("batch", [1, 4, 8])
def test_a_second_time_gives_the_same_bits(batch: int) -> None:
    """At the size of a 2.7B model's layer, where blocks race for work: side by side, handed on in one wave and in two."""
    values, resets = HALF.inputs(batch, 2048, 5120, 16), HALF.resets(batch, 2048, 0.002)
    first = HALF.both_ways(values, resets)
    again = HALF.both_ways(values, resets)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    recomputed = Scan(NativeOps(recompute=True), "cuda", torch.bfloat16, 0).both_ways(values, resets)
    assert all(torch.equal(a, b) for a, b in zip(first, recomputed, strict=True))


def test_slices_of_wider_rows_are_read_where_they_lie() -> None:
    """As a model hands them over: z is half of in_proj's output, B and C parts of x_proj's."""
    values = SINGLE.inputs(2, 40, 64, 16)
    wide_z = torch.cat((values["u"], values["z"]), 2).detach().requires_grad_()
    wide_bc = torch.cat((values["B"], values["B"], values["C"]), 2).detach().requires_grad_()
    sliced = values | {"z": wide_z[..., 64:], "B": wide_bc[..., 16:32], "C": wide_bc[..., 32:]}
    del values["initial"], sliced["initial"]
    found, right = (SINGLE.ops.selective_scan(**given, resets=None) for given in (sliced, values))
    assert torch.equal(found, right)
    g_z, g_bc = torch.autograd.grad(found.sum(), (wide_z, wide_bc))
    gz, gb, gc = torch.autograd.grad(right.sum(), (values["z"], values["B"], values["C"]))
    assert torch.equal(g_z[..., 64:], gz) and torch.equal(g_bc[..., 16:], torch.cat((gb, gc), 2))


def test_operands_may_lie_anywhere() -> None:
    """Gathered parameters are parts of one buffer, and begin where the one before ends."""
    values = SINGLE.inputs(2, 40, 64, 16)
    moved = {}
    for name, value in values.items():
        buffer = torch.empty(value.numel() + 1, device="cuda")[1:].view(value.shape)
        moved[name] = buffer.copy_(value.detach()).requires_grad_()
    for a, b in zip(SINGLE.both_ways(moved, None), SINGLE.both_ways(values, None), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("rate", [1e-30, 1e-3, 1e3])
def test_a_reset_forgets_all_at_any_decay(rate: float) -> None:
    scan_checks.a_reset_forgets_all_at_any_decay(SINGLE, rate)


@pytest.mark.parametrize(
    "check",
    [
        scan_checks.packed_documents_equal_documents_apart,
        scan_checks.pieces_that_hand_the_state_on_equal_the_whole,
        scan_checks.long_sequences_stay_near,
        scan_checks.autocast_changes_nothing,
        scan_checks.gradients_may_lie_anyhow,
        scan_checks.what_is_no_number_shows,
        scan_checks.is_differentiable_once,
    ],
)
def test_what_every_backend_must_do(check) -> None:
    check(SINGLE)


def test_torch_sees_through() -> None:
    values = SINGLE.inputs(1, 24, 8, 16)
    operands = [values[name] for name in (*scan_checks.NAMES, "initial")]
    for keep in (False, True):
        torch.library.opcheck(torch.ops.adam.selective_scan, (*operands[:8], SINGLE.resets(1, 24), operands[8], keep))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor's own
def test_a_compiled_model_has_no_break_in_it() -> None:
    values = SINGLE.inputs(1, 24, 8, 16)
    del values["initial"]

    def step(u: torch.Tensor) -> torch.Tensor:
        return SINGLE.ops.selective_scan(**(values | {"u": u * 2}), resets=None).sin()

    found = torch.compile(step, fullgraph=True)(values["u"])
    torch.testing.assert_close(found, step(values["u"]))


def test_a_thread_that_has_done_nothing_yet() -> None:
    """Its first memory comes from torch's cache, so that nobody has made a context for it."""
    values = SINGLE.inputs(1, 24, 8, 16)
    first = SINGLE.both_ways(values, None)
    with ThreadPoolExecutor(1) as pool:
        again = pool.submit(SINGLE.both_ways, values, None).result()
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_what_it_does_not_take() -> None:
    for dtype, states, said in ((torch.float64, 16, "float64"), (torch.float32, 65, "65")):
        values = Scan(NativeOps(), "cuda", dtype, 0).inputs(1, 4, 4, states)
        with pytest.raises(ValueError, match=rf"the native scan takes .*{said}"):
            NativeOps().selective_scan_from(**values, resets=None)


def test_the_self_check_passes_and_is_remembered(tmp_path) -> None:
    began = time.monotonic()
    assert backends.choose_backend("auto", "cuda", "bf16", 16, tmp_path / "kernels.json") == ("native", ())
    print(f"self-check: {time.monotonic() - began:.2f} s")
    assert "native" in (tmp_path / "kernels.json").read_text()


def test_a_wrong_kernel_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = native_launch.run_backward
    monkeypatch.setattr(
        "adam.trainer.ops.native_scan.run_backward",
        lambda *a: tuple(g * 1.03 if i == 3 else g for i, g in enumerate(right(*a))),
    )
    assert "the gradient of B" in backends.self_check(NativeOps(), "fp32", 16)


@pytest.mark.parametrize("states", [4, 12, 64])
def test_the_self_check_of_other_models(states: int) -> None:
    assert backends.self_check(NativeOps(), "bf16", states) == ""


def test_the_self_check_goes_the_ways_of_large_models(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = set()
    load, cut = native_launch._load, native_launch.chunks

    def chunks(*given) -> Chunks:
        gone.add("handed on" if (found := cut(*given)).count > 1 and not found.linked else "otherwise")
        return found

    monkeypatch.setattr(
        native_launch, "_load", lambda name, macros, device: gone.add((name, macros[-1])) or load(name, macros, device)
    )
    monkeypatch.setattr(native_launch, "chunks", chunks)
    assert backends.self_check(NativeOps(), "bf16", 16) == ""
    assert gone >= {"handed on", ("scan_forward", ("OWN", 4)), ("scan_backward", ("BLOCKS", 3))}
