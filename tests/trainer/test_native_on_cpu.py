"""The native scan without a GPU: the very kernels, compiled for the CPU (`cuda_on_cpu`), and the code that launches them.

What a kernel touches beyond its operands, or reads before it is written, shows here on any machine. tests/gpu asks the same of a GPU.
"""

import random

import cuda_on_cpu
import pytest
import scan_checks
import torch
from scan_checks import Scan

from adam.trainer.ops import native_launch
from adam.trainer.ops.native import NativeOps
from adam.trainer.ops.native_launch import Chunks
from adam.trainer.ops.self_check import compare

pytestmark = pytest.mark.skipif(cuda_on_cpu.GXX is None, reason="no g++ to compile the kernels with")
SINGLE = Scan(NativeOps(), "cpu", torch.float32, 2e-5)
SCANS = {
    "kept": SINGLE,
    "recomputed": Scan(NativeOps(recompute=True), "cpu", torch.float32, 2e-5),
    "bf16": Scan(NativeOps(), "cpu", torch.bfloat16, 2e-2),
    "fp16": Scan(NativeOps(), "cpu", torch.float16, 4e-3),
}


@pytest.fixture(autouse=True, scope="module")
def compiled(tmp_path_factory):
    debug = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("error")  # new memory is NaN
    with cuda_on_cpu.kernels_on_cpu(tmp_path_factory.mktemp("kernels")):
        yield
    torch.set_deterministic_debug_mode(debug)


def cut(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Cut time into chunks of two tiles; without, a chunk has at least 128 steps."""

    def chunks(chains: int, length: int, resident: int, tile: int) -> Chunks:
        count = -(-length // (2 * tile))
        return Chunks(2 * tile, count, way == "side by side" and count > 1)

    if way != "whole":
        monkeypatch.setattr(native_launch, "chunks", chunks)


@pytest.mark.parametrize("way", ["whole", "handed on", "side by side"])
@pytest.mark.parametrize(
    "states",
    [4, pytest.param(8, marks=pytest.mark.campaign), 12, pytest.param(24, marks=pytest.mark.campaign), 64],
)
def test_any_size_any_way(states: int, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, way)
    draw = random.Random(states)
    for documents in (False, True):
        for _ in range(2):
            shape = (draw.choice([1, 2, 5]), draw.choice([1, 8, 15, 17, 33, 40, 47]), draw.choice([1, 3, 64, 70, 130]))
            scan_checks.equals_the_recurrence(SINGLE, (*shape, states), documents=documents)


@pytest.mark.parametrize("way", ["whole", "handed on", "side by side"])
@pytest.mark.parametrize("scan", ["recomputed", "bf16", "fp16"])
def test_any_type_any_way(scan: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(monkeypatch, way)
    for shape in ((2, 37, 70, 16), (1, 16, 1, 16), (5, 9, 130, 16)):
        scan_checks.equals_the_recurrence(SCANS[scan], shape, documents=True)


@pytest.mark.parametrize(
    "check",
    [
        scan_checks.packed_documents_equal_documents_apart,
        scan_checks.pieces_that_hand_the_state_on_equal_the_whole,
        scan_checks.autocast_changes_nothing,
        scan_checks.gradients_may_lie_anyhow,
        scan_checks.what_is_no_number_shows,
        scan_checks.is_differentiable_once,
    ],
)
def test_what_every_backend_must_do(check) -> None:
    check(SINGLE)


@pytest.mark.parametrize("rate", [1e-30, 1e-3, 1e3])
def test_a_reset_forgets_all_at_any_decay(rate: float) -> None:
    scan_checks.a_reset_forgets_all_at_any_decay(SINGLE, rate)


def test_the_bits_do_not_hang_on_what_is_kept() -> None:
    values, resets = SINGLE.inputs(2, 40, 70, 16), SINGLE.resets(2, 40)
    kept, recomputed = (SCANS[name].both_ways(values, resets) for name in ("kept", "recomputed"))
    assert all(torch.equal(a, b) for a, b in zip(kept, recomputed, strict=True))


@pytest.mark.parametrize("keep", [False, True])
def test_torch_sees_through(keep: bool) -> None:
    values, resets = SINGLE.inputs(1, 24, 8, 16), SINGLE.resets(1, 24)
    operands = (*(values[name] for name in scan_checks.NAMES), resets, values["initial"])
    torch.library.opcheck(torch.ops.adam.selective_scan, (*operands, keep))
    operands = tuple(operand.detach() for operand in operands)
    out, last, y, saved = torch.ops.adam.selective_scan(*operands, keep)
    torch.library.opcheck(torch.ops.adam.selective_scan_backward, (out, last, *operands, y, saved))


def test_a_compiled_model_has_no_break_in_it() -> None:
    values = SINGLE.inputs(1, 24, 8, 16)
    del values["initial"]

    def step(u: torch.Tensor) -> torch.Tensor:
        return SINGLE.ops.selective_scan(**(values | {"u": u * 2}), resets=None).sin()

    found, right = torch.compile(step, fullgraph=True, backend="aot_eager")(values["u"]), step(values["u"])
    assert torch.equal(found, right)
    for a, b in zip(*(torch.autograd.grad(y.sum(), tuple(values.values())) for y in (found, right)), strict=True):
        assert torch.equal(a, b)


def test_more_sequences_than_a_grid_has_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_on_cpu, "GRID", (1000, 3, 3))
    monkeypatch.setattr(native_launch, "GRID_ROWS", 3)
    scan_checks.equals_the_recurrence(SINGLE, (7, 9, 4, 4), documents=False)


@pytest.mark.parametrize("way", ["handed on", "side by side"])
def test_a_decay_that_has_become_zero_is_no_nan(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """exp(A_log) of a weight below -104 is 0, and a chunk may have two documents in it."""
    cut(monkeypatch, way)
    values = {name: value.detach() for name, value in SINGLE.inputs(1, 40, 4, 16).items()}
    values["A"][0] = -0.0
    resets = torch.zeros(1, 40, dtype=torch.bool)
    resets[0, [3, 5]] = True
    assert SINGLE.ops.selective_scan_from(**values, resets=resets)[0].isfinite().all()


@pytest.mark.parametrize("copies", [1, 6])
def test_the_self_check_asks_it_what_it_can_do(copies: int) -> None:
    assert compare(NativeOps(), "cpu", (2, 45, 20, 16), torch.bfloat16, copies) == ""


@pytest.mark.parametrize("copies", [1, 6])
def test_the_self_check_finds_a_wrong_result(copies: int, monkeypatch: pytest.MonkeyPatch) -> None:
    right = native_launch.run_backward
    monkeypatch.setattr(
        "adam.trainer.ops.native_scan.run_backward",
        lambda *a: tuple(g * 1.03 if i == 3 else g for i, g in enumerate(right(*a))),
    )
    assert "the gradient of B" in compare(NativeOps(), "cpu", (2, 45, 20, 16), torch.bfloat16, copies)
