"""Who computes on a CPU: the C++ operators where they can be compiled and are right, and never in the middle of a run."""

import pytest
import structlog.testing
import torch
from small_run import make_run, small_config, write_plan

from adam.contract import schema
from adam.contract.durable import whole_lines
from adam.contract.errors import ConfigError
from adam.contract.records import BackendReport, Numerics, Resume, decode_step
from adam.contract.snapshots import complete_snapshots
from adam.trainer.attempt import run_attempt
from adam.trainer.ops import backends, cpu_build
from adam.trainer.ops.backends import Choice, choose_backend, make_ops
from adam.trainer.ops.cpu import CpuOps
from adam.trainer.ops.self_check import self_check_cpu

compiled = pytest.mark.skipif(cpu_build.compiler() is None, reason="no C++ compiler")


def choose(tmp_path, wanted: str = "auto") -> Choice:
    return choose_backend(wanted, "cpu", "fp32", 16, tmp_path / "kernels.json")


@compiled
def test_what_is_compiled_is_checked_once(tmp_path, monkeypatch) -> None:
    assert choose(tmp_path) == Choice("native") and isinstance(make_ops("native", "cpu"), CpuOps)
    monkeypatch.setattr(backends, "self_check_cpu", lambda *_: pytest.fail("checked again"))
    assert choose(tmp_path) == choose(tmp_path, "native") == Choice("native")
    assert choose(tmp_path, "torch") == Choice("torch")


@compiled
def test_what_is_wrong_is_told_and_the_reference_taken(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(backends, "self_check_cpu", lambda *_: "the gradient of B is 0.3 off")
    assert choose(tmp_path) == Choice("torch", ("native: the gradient of B is 0.3 off",))
    with pytest.raises(ConfigError, match=r"'native' can't be used: the gradient of B"):
        choose(tmp_path, "native")


@compiled
def test_what_does_not_compile_is_told_and_the_reference_taken(tmp_path, monkeypatch) -> None:
    def broken() -> None:
        raise cpu_build.BuildError("g++ does not compile them: no")

    monkeypatch.setattr(cpu_build, "library", broken)
    assert choose(tmp_path) == Choice("torch", ("native: g++ does not compile them: no",))


@compiled
def test_the_check_finds_a_mistake() -> None:
    class Wrong(CpuOps):
        def causal_conv1d(self, x, weight, bias, resets):
            return super().causal_conv1d(x, weight, bias, None)

    assert "causal_conv1d" in self_check_cpu(Wrong(), "fp32", 16)
    assert self_check_cpu(CpuOps(), "fp32", 16) == self_check_cpu(CpuOps(), "bf16", 5) == ""


def test_without_a_compiler(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cpu_build, "compiler", lambda: None)
    cpu_build.key.cache_clear()
    with structlog.testing.capture_logs() as said:
        assert choose(tmp_path) == Choice("torch")
    assert [line["log_level"] for line in said] == ["warning"] and "no C++ compiler" in said[0]["event"]
    with pytest.raises(ConfigError, match=r"'native' can't be used: there is no C\+\+ compiler"):
        choose(tmp_path, "native")
    cpu_build.key.cache_clear()


def test_what_needs_a_gpu(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"mamba_ssm.*CPU"):
        choose(tmp_path, "mamba_ssm")


def losses(paths) -> list[tuple[int, float | None]]:
    return [(row.step, row.loss) for row in (decode_step(line, paths.steps) for _, line in whole_lines(paths.steps))]


@compiled
@pytest.mark.parametrize("begins", ["torch", "native"])
def test_a_run_goes_on_as_it_began(tmp_path, monkeypatch, begins: str) -> None:
    """With a compiler that comes only after the first attempt, too."""
    config = small_config(steps=6)
    whole, parts = make_run(tmp_path / "whole", config), make_run(tmp_path / "parts", config)
    asked = iter(range(4))
    with monkeypatch.context() as patch:
        if begins == "torch":
            patch.setattr(cpu_build, "compiler", lambda: None)
        for paths, stop in ((whole, lambda: False), (parts, lambda: next(asked, None) is None)):
            write_plan(paths)
            run_attempt(paths.root, 1, stop)
    snapshot = complete_snapshots(parts)[0]
    write_plan(parts, 2, Resume(snapshot.name, snapshot.head.step, str(snapshot.path)))
    assert run_attempt(parts.root, 2, lambda: False)
    assert losses(whole) == losses(parts) and len(losses(parts)) == 6
    reports = [schema.load(paths.backend_report, BackendReport) for paths in (whole, parts)]
    assert [report.name for report in reports if report] == [begins, begins]
    numerics = [schema.load(paths.numerics, Numerics) for paths in (whole, parts)]
    assert len({one.fingerprint for one in numerics if one}) == 1
    assert all(("operators" in one.parts) == (begins == "native") for one in numerics if one)


@compiled
def test_both_backends_train_alike(tmp_path) -> None:
    found = []
    for backend in ("native", "torch"):
        paths = make_run(tmp_path / backend, small_config(steps=6, backend=backend))
        write_plan(paths)
        assert run_attempt(paths.root, 1, lambda: False)
        found.append(torch.tensor([loss for _, loss in losses(paths)]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)
