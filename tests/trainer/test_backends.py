"""Which backend computes: by name, by what the machine has, by what passes its self-check. No GPU needed."""

import shutil
from pathlib import Path

import pytest
import structlog.testing
import torch

from adam.contract.errors import ConfigError
from adam.trainer.ops import backends, self_check_ops
from adam.trainer.ops.backends import Choice, choose_backend
from adam.trainer.ops.interface import Ops
from adam.trainer.ops.native import NativeOps
from adam.trainer.ops.native_launch import chunks
from adam.trainer.ops.reference import ReferenceOps
from adam.trainer.ops.self_check import compare, self_check, shapes


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path):
    """A GPU machine made up: `wrong` says what each backend does wrong (or raises), `asked` which were checked."""

    class Machine:
        wrong = {}
        asked = []
        checks, driver = tmp_path / "kernels.json", tmp_path / "version"

        def choose(self, wanted: str, states: int = 16) -> str:
            return self.choice(wanted, states).name

        def choice(self, wanted: str, states: int = 16) -> Choice:
            return choose_backend(wanted, "cuda", "bf16", states, self.checks, self.driver)

    machine = Machine()
    machine.driver.write_text("NVRM version: 580.1\nGCC 12\n")

    def check(ops: Ops, precision: str, states: int, arch: str) -> str:
        name = "native" if isinstance(ops, NativeOps) else "mamba_ssm"
        machine.asked.append(name)
        if isinstance(machine.wrong[name], BaseException):
            raise machine.wrong[name]
        return machine.wrong[name]

    machine.wrong, machine.asked = {"native": "", "mamba_ssm": ""}, []
    monkeypatch.setattr(backends, "self_check", check)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(backends.importlib.metadata, "version", lambda name: "2.3")
    return machine


def test_the_fastest_that_is_right(machine) -> None:
    assert machine.choose("auto") == "native"
    machine.checks.unlink()
    machine.wrong["native"] = "the gradient of B is 0.3 off"
    assert machine.choose("auto") == "mamba_ssm"
    machine.checks.unlink()
    machine.wrong["mamba_ssm"] = "NaN"
    assert machine.choose("auto") == "torch"


def test_a_fallback_is_told_by_name(machine) -> None:
    machine.wrong["native"] = "the gradient of B is 0.3 off"
    with structlog.testing.capture_logs() as said:
        machine.choose("auto")
    assert [(line["backend"], line["why"]) for line in said] == [("native", "the gradient of B is 0.3 off")]
    machine.wrong["mamba_ssm"] = "NaN"
    machine.checks.unlink()
    assert machine.choice("auto") == Choice("torch", ("native: the gradient of B is 0.3 off", "mamba_ssm: NaN"))


def test_a_pass_counts_until_the_driver_changes(machine) -> None:
    machine.choose("auto")
    machine.choose("auto")
    assert machine.asked == ["native"]
    machine.driver.write_text("NVRM version: 590.1\n")
    machine.choose("auto")
    assert machine.asked == ["native", "native"]


def test_a_pass_counts_for_these_kernels_only(machine, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    machine.choose("auto", states=16)
    machine.choose("auto", states=24)
    assert machine.asked == ["native", "native"]
    changed = tmp_path / "ops"
    shutil.copytree(Path(backends.__file__).parent, changed)
    (changed / "native_launch.py").write_text("# how kernels are launched has changed")
    monkeypatch.setattr(backends, "__file__", str(changed / "backends.py"))
    machine.choose("auto", states=24)
    assert machine.asked == ["native"] * 3


@pytest.mark.parametrize("end", [KeyboardInterrupt("killed"), SystemExit(1)])
def test_a_check_that_does_not_come_back_is_not_begun_for_ever(machine, end: BaseException) -> None:
    """A kernel that hangs is killed by the watchdog, one that ends CUDA takes the process with it; both do so again."""
    machine.wrong["native"] = end
    for _ in range(2):
        with pytest.raises(type(end)):
            machine.choose("auto")
    choice = machine.choice("auto")
    assert choice.name == "mamba_ssm" and "did not come back 2 times" in choice.failed[0]
    assert str(machine.checks) in choice.failed[0]
    machine.checks.unlink()
    machine.wrong["native"] = ""
    assert machine.choose("auto") == "native"


def test_a_kernel_that_ended_cuda_ends_the_attempt(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after it in the same process would fail too, and not for its own fault."""

    def gone() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nFor debugging consider …")

    monkeypatch.setattr(torch.cuda, "synchronize", gone)
    machine.wrong["native"] = "AcceleratorError: an illegal memory access"
    for _ in range(2):
        with pytest.raises(
            RuntimeError, match=r"ended CUDA in this process .*native.*: CUDA error: an illegal memory"
        ) as said:
            machine.choose("auto")
        assert len(str(said.value).splitlines()) == 1
    assert machine.choose("auto") == "mamba_ssm"
    assert machine.asked == ["native", "native", "mamba_ssm"]


def test_too_little_memory_is_no_fault_of_the_backend(machine) -> None:
    machine.wrong["native"] = torch.OutOfMemoryError("CUDA out of memory")
    for _ in range(4):
        with pytest.raises(torch.OutOfMemoryError):
            machine.choose("auto")
    machine.wrong["native"] = ""
    assert machine.choose("auto") == "native"


def test_a_named_backend_that_is_not_installed(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise backends.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(backends.importlib.metadata, "version", version)
    with pytest.raises(ConfigError, match=r"mamba_ssm.*is not installed.*adam-trainer\[cuda\]"):
        machine.choose("mamba_ssm")


def test_a_failure_is_not_remembered(machine) -> None:
    machine.wrong["native"] = "busy"
    machine.choose("auto")
    machine.wrong["native"] = ""
    assert machine.choose("auto") == "native"


def test_what_can_not_be_read_is_checked_again(machine) -> None:
    machine.checks.write_bytes(bytes(20))
    assert machine.choose("auto") == "native"
    assert machine.choose("auto") == "native" and machine.asked == ["native"]


def test_a_backend_that_was_named_is_not_replaced(machine) -> None:
    machine.wrong["native"] = "the gradient of B is 0.3 off"
    with pytest.raises(ConfigError, match=r"native.*gradient of B"):
        machine.choose("native")
    assert machine.choose("torch") == "torch"


class Wrong(ReferenceOps):
    """The reference with one mistake."""

    def __init__(self, mistake: str) -> None:
        self.mistake = mistake

    def selective_scan(self, u, delta, A, B, C, D, z, delta_bias, resets):
        if self.mistake == "documents":
            resets = None
        out = super().selective_scan(u, delta, A, B, C, D, z, delta_bias, resets)
        if self.mistake == "gradient":
            out = out + 0.02 * (B - B.detach()).sum()
        if self.mistake == "many" and len(u) > 4:
            out = torch.cat((out[:4], 1.1 * out[4:6], out[6:]))
        return out * torch.nan if self.mistake == "nan" else out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_comparison_finds_each_mistake(dtype: torch.dtype) -> None:
    shape = (2, 45, 20, 16)
    assert compare(ReferenceOps(), "cpu", shape, dtype) == ""
    assert "gradient of B" in compare(Wrong("gradient"), "cpu", shape, dtype)
    assert "out is" in compare(Wrong("documents"), "cpu", shape, dtype)
    assert "out is nan" in compare(Wrong("nan"), "cpu", shape, dtype)
    assert compare(ReferenceOps(), "cpu", shape, dtype, copies=5) == compare(Wrong("many"), "cpu", shape, dtype) == ""
    assert "10 x 45 x 20 x 16: out is 1.0e-01" in compare(Wrong("many"), "cpu", shape, dtype, copies=5)


class WrongElsewhere(ReferenceOps):
    """The reference with a mistake in one of the other operations: `forward`, in the gradient of a weight, or NaN."""

    def __init__(self, operation: str, mistake: str) -> None:
        self.operation, self.mistake = operation, mistake

    def __getattribute__(self, name: str):
        right = super().__getattribute__(name)
        if name != super().__getattribute__("operation"):
            return right

        def wrong(*operands):
            found = right(*operands)
            first, *others = found if isinstance(found, tuple) else (found,)
            if self.mistake == "raises":
                raise AttributeError("no such thing\nand so on")
            weight = operands[2] if name in ("add_rms_norm", "gated_rms_norm", "ssd") else operands[1]
            first = {
                "forward": first * 1.05,
                "gradient": first + (weight - weight.detach()).sum().to(first.dtype),
                "nan": first * torch.nan,
            }[self.mistake]
            return (first, *others) if others else first

        return wrong


@pytest.mark.parametrize("operation", ["causal_conv1d", "add_rms_norm", "gated_rms_norm", "cross_entropy", "ssd"])
@pytest.mark.parametrize("mistake", ["forward", "gradient", "nan", "raises"])
def test_the_comparison_of_the_other_operations_finds_each_mistake(operation: str, mistake: str) -> None:
    said = self_check_ops.check_ops(WrongElsewhere(operation, mistake), "cpu", torch.float32)
    what = {
        "forward": "out is 5.0e-02",
        "gradient": "the gradient of ",
        "nan": "out is nan",
        "raises": "AttributeError: no such thing",
    }
    assert said.startswith(f"{operation}, torch.float32, ") and what[mistake] in said and "\n" not in said


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_reference_passes_the_comparison(dtype: torch.dtype) -> None:
    assert self_check_ops.check_ops(ReferenceOps(), "cpu", dtype) == ""


def test_all_kernels_of_a_check_are_compiled_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = []
    monkeypatch.setattr("adam.trainer.ops.self_check.compile_all", lambda sources, device: ahead.extend(sources))
    monkeypatch.setattr("adam.trainer.ops.self_check.compare", lambda *_: "")
    monkeypatch.setattr(self_check_ops, "check_ops", lambda *_: "")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert self_check(NativeOps(), "bf16", 16) == ""
    here = {path.name for path in (Path(backends.__file__).parent / "kernels").glob("*.cu")}
    assert {files[-1] for files, _ in ahead} == here - {"fp8.cu"} and len(ahead) == len(set(ahead))


@pytest.mark.parametrize(("arch", "others"), [("mamba1", {"ssd", "gated"}), ("mamba2", {"scan"})])
def test_what_a_model_never_computes_is_neither_compiled_nor_checked(monkeypatch, arch: str, others: set[str]) -> None:
    ahead, done = [], []
    monkeypatch.setattr("adam.trainer.ops.self_check.compile_all", lambda sources, device: ahead.extend(sources))
    monkeypatch.setattr("adam.trainer.ops.self_check.compare", lambda *_: done.append("selective_scan") or "")
    monkeypatch.setattr(self_check_ops, "_compare", lambda ops, check, *_: done.append(check.name) or "")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert self_check(NativeOps(), "bf16", 16, arch) == ""
    files = {files[-1].partition("_")[0].removesuffix(".cu") for files, _ in ahead}
    everything = {"scan", "conv", "add", "gated", "cross", "ssd", "adamw"}
    assert files == everything - others
    assert {"selective_scan": "scan", "gated_rms_norm": "gated", "ssd": "ssd"}.keys() - set(done) == {
        {"scan": "selective_scan", "gated": "gated_rms_norm", "ssd": "ssd"}[one] for one in others
    }


def test_whatever_a_library_raises_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unfit(*_: object) -> str:
        raise AttributeError("module 'triton' has no attribute 'language'\nand so on")

    monkeypatch.setattr("adam.trainer.ops.self_check.compare", unfit)
    said = self_check(ReferenceOps(), "fp32", 16)
    assert said == "selective_scan, fp32, 16 states: AttributeError: module 'triton' has no attribute 'language'"


@pytest.mark.parametrize(
    ("states", "channels", "blocks"), [(4, 64, 16), (8, 64, 8), (16, 64, 5), (32, 32, 4), (64, 16, 4)]
)
def test_the_check_is_wide_enough_for_the_kernels_of_large_models(states: int, channels: int, blocks: int) -> None:
    """channels: of a block. blocks: that a multiprocessor holds at most (`RESIDENT` in the kernels)."""
    (batch, length, width, _), copies = shapes(states)[-1]
    chains = batch * copies * -(-width // channels)
    cut = chunks(chains, length, blocks * 188, 16)
    assert chains >= blocks * 188 and cut.count > 1 and not cut.linked
