"""C++ operators of CPUs: what every backend must do, the same bits for any number of threads, and what is done where they can't be built."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import references
import scan_checks
import torch
from scan_checks import Scan

from adam.trainer.ops import cpu_build
from adam.trainer.ops.cpu import CpuOps
from adam.trainer.ops.cpu_build import BuildError
from adam.trainer.ops.reference import ReferenceOps

pytestmark = pytest.mark.skipif(cpu_build.compiler() is None, reason="no C++ compiler")


@pytest.fixture(scope="module")
def ops() -> CpuOps:
    return CpuOps()


@pytest.fixture
def single(ops) -> Scan:
    return Scan(ops, "cpu", torch.float32, 2e-5)


@pytest.mark.parametrize("states", [1, 4, 5, 16, 64])
@pytest.mark.parametrize("documents", [False, True])
def test_it_equals_the_recurrence(single: Scan, states: int, documents: bool) -> None:
    for shape in ((2, 37, 70), (1, 1, 1), (3, 32, 16), (1, 33, 300), (2, 64, 128)):
        scan_checks.equals_the_recurrence(single, (*shape, states), documents=documents)


def test_it_is_as_near_to_float64_as_the_reference(single: Scan) -> None:
    values, resets = single.inputs(2, 256, 96, 16), single.resets(2, 256)
    right = single.exactly(values, resets)
    for name, ours, theirs, exact in zip(
        ("out", "last", *scan_checks.NAMES, "initial"),
        single.both_ways(values, resets),
        Scan(ReferenceOps(), "cpu", torch.float32, 0).both_ways(values, resets),
        right,
        strict=True,
    ):
        off, allowed = (float((found.double() - exact).norm() / exact.norm()) for found in (ours, theirs))
        assert off <= 2 * allowed + 1e-7, f"{name}: {off:.1e}, the reference is {allowed:.1e} off"


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
def test_what_every_backend_must_do(single: Scan, check) -> None:
    check(single)


@pytest.mark.parametrize("rate", [1e-30, 1e-3, 1e3])
def test_a_reset_forgets_all_at_any_decay(single: Scan, rate: float) -> None:
    scan_checks.a_reset_forgets_all_at_any_decay(single, rate)


def test_half_precision_is_computed_in_single(ops: CpuOps) -> None:
    scan_checks.equals_the_recurrence(Scan(ops, "cpu", torch.bfloat16, 2e-2), (2, 50, 40, 16), documents=True)


def test_double_precision_is_the_reference(ops: CpuOps) -> None:
    scan_checks.equals_the_recurrence(Scan(ops, "cpu", torch.float64, 1e-9), (2, 20, 6, 3), documents=True)


@pytest.mark.parametrize("step", [-90.0, -30.0, 0.0, 30.0, 90.0])
def test_extreme_steps_stay_finite(single: Scan, step: float) -> None:
    values = single.inputs(1, 300, 20, 4)
    values["delta"] = (values["delta"].detach() + step).requires_grad_()
    found, right = single.both_ways(values, None), single.exactly(values, None)
    assert all(result.isfinite().all() for result in found)
    torch.testing.assert_close(found[0].double(), right[0], rtol=1e-4, atol=1e-4 * float(right[0].detach().abs().max()))


def test_slices_of_wider_rows_are_read_where_they_lie(single: Scan) -> None:
    values = single.inputs(2, 40, 64, 16)
    wide = torch.cat((values["u"], values["z"]), 2).detach().requires_grad_()
    pair = torch.cat((values["B"], values["C"]), 2).detach().requires_grad_()
    B, C = pair.split(16, 2)
    sliced = values | {"u": wide[..., :64], "z": wide[..., 64:], "B": B, "C": C}
    found = single.ops.selective_scan_from(**sliced, resets=None)[0]
    right = single.ops.selective_scan_from(**values, resets=None)[0]
    assert torch.equal(found, right)
    gradients = torch.autograd.grad(found.sum(), (wide, pair))
    wanted = torch.autograd.grad(right.sum(), tuple(values[name] for name in ("u", "z", "B", "C")))
    for a, b in zip(gradients, (wanted[:2], wanted[2:]), strict=True):
        assert torch.equal(a, torch.cat(b, 2))


CONVOLUTIONS = [(2, 13, 5, 4), (1, 1, 1, 4), (3, 2, 70, 4), (2, 40, 130, 2), (2, 9, 16, 1), (1, 20, 33, 8)]


@pytest.mark.parametrize("shape", CONVOLUTIONS)
@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_the_convolution_equals_its_definition(ops: CpuOps, shape, documents: bool, biased: bool) -> None:
    batch, length, channels, taps = shape
    g = torch.Generator().manual_seed(0)
    x, weight, bias, dy = (
        torch.randn(*size, generator=g)
        for size in ((batch, length, channels), (channels, taps), (channels,), (batch, length, channels))
    )
    resets = torch.rand(batch, length, generator=g) < 0.2 if documents else None
    given = [tensor.requires_grad_() for tensor in ((x, weight, bias) if biased else (x, weight))]
    exact = [tensor.detach().double().requires_grad_() for tensor in given]
    found = ops.causal_conv1d(*given, *([] if biased else [None]), resets)
    right = references.causal_conv1d(*exact, *([] if biased else [torch.zeros(channels)]), resets)
    results = (found, *torch.autograd.grad(found, given, dy)), (right, *torch.autograd.grad(right, exact, dy.double()))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=2e-6 * max(1.0, float(b.detach().abs().max())))


def bits(ops: CpuOps) -> list[torch.Tensor]:
    scan = Scan(ops, "cpu", torch.float32, 0)
    values, resets = scan.inputs(3, 100, 300, 16), scan.resets(3, 100)
    x, weight, bias = values["u"], values["A"][:, :4], values["D"]
    y = ops.causal_conv1d(x, weight, bias, resets)
    return [*scan.both_ways(values, resets), y, *torch.autograd.grad(y.square().sum(), (x, weight, bias))]


def test_the_same_bits_for_any_number_of_threads(ops: CpuOps) -> None:
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3, 7, 2):
            torch.set_num_threads(threads)
            found.append(bits(ops))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.fixture
def elsewhere(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cpu_build.key.cache_clear()
    yield tmp_path / "cache" / "adam-trainer"
    cpu_build.key.cache_clear()


def fake_compiler(monkeypatch: pytest.MonkeyPatch, directory: Path, does: str) -> None:
    path = directory / "compiler"
    path.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then echo "a compiler 1.0"; exit; fi\n{does}\n')
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    cpu_build.key.cache_clear()


def test_it_is_compiled_once_and_not_believed_blindly(tmp_path, elsewhere, monkeypatch) -> None:
    fake_compiler(
        monkeypatch, tmp_path, f"echo x >> {tmp_path}/asked; while [ $# -gt 1 ]; do shift; done; echo code > $1"
    )
    first = cpu_build._built()
    assert cpu_build._built() == first and first.parent == elsewhere
    first.write_bytes(first.read_bytes()[:-1])  # torn by a power cut
    (elsewhere / ".half.so").touch()
    assert cpu_build._built() == first and first.read_text() == "code\n"
    assert len((tmp_path / "asked").read_text().splitlines()) == 2
    assert {path.name for path in elsewhere.iterdir()} == {"lock", first.name}


def test_a_cache_that_can_not_be_written_costs_only_time(tmp_path, elsewhere, monkeypatch) -> None:
    fake_compiler(monkeypatch, tmp_path, "while [ $# -gt 1 ]; do shift; done; echo code > $1")
    elsewhere.parent.write_text("no directory")
    monkeypatch.setattr(cpu_build, "_kept_in", [])
    with pytest.raises(BuildError, match="no place"):
        cpu_build._built()
    cpu_build.keep_in(tmp_path / "otherwise")
    assert cpu_build._built().parent == tmp_path / "otherwise"


def test_what_a_compiler_says_is_one_line(tmp_path, elsewhere, monkeypatch) -> None:
    fake_compiler(
        monkeypatch, tmp_path, "echo 'In file included from somewhere' >&2; echo 'x.cpp:3: error: no' >&2; exit 1"
    )
    with pytest.raises(BuildError, match=r"compiler does not compile them: x\.cpp:3: error: no$"):
        CpuOps()
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    cpu_build.key.cache_clear()
    with pytest.raises(BuildError, match=r"there is no C\+\+ compiler"):
        CpuOps()


def test_what_can_not_be_loaded_is_told(tmp_path, elsewhere, monkeypatch) -> None:
    fake_compiler(monkeypatch, tmp_path, "while [ $# -gt 1 ]; do shift; done; echo code > $1")
    with pytest.raises(BuildError, match="can't be loaded"):
        CpuOps()


def test_torchs_threads_are_its_threads(ops: CpuOps) -> None:
    """Two runtimes of OpenMP in one process would have twice the threads, which wait for one another."""
    code = (
        "import re, pathlib, torch; from adam.trainer.ops.cpu import CpuOps; CpuOps()\n"
        "print(len(set(re.findall(r'/\\S*libi?g?omp\\S*', pathlib.Path('/proc/self/maps').read_text()))))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, env=os.environ, check=True
    )
    assert done.stdout.split()[-1] == "1"
