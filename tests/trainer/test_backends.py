"""Which backend computes: by name, by what the machine has, by what passes its self-check. No GPU needed."""

import pytest
import torch

from adam.contract.errors import ConfigError
from adam.trainer.ops import backends
from adam.trainer.ops.backends import choose_backend, compare
from adam.trainer.ops.reference import ReferenceOps


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path):
    """A GPU machine made up: `wrong` says what each backend does wrong, `asked` which were checked."""

    class Machine:
        wrong = {"native": "", "mamba_ssm": ""}
        asked = []
        checks, driver = tmp_path / "kernels.json", tmp_path / "version"

        def choose(self, wanted: str) -> str:
            return choose_backend(wanted, "cuda", "bf16", self.checks, self.driver)

    machine = Machine()
    machine.driver.write_text("NVRM version: 580.1\nGCC 12\n")

    def check(name: str, precision: str) -> str:
        machine.asked.append(name)
        return machine.wrong[name]

    machine.wrong, machine.asked = dict(Machine.wrong), []
    monkeypatch.setattr(backends, "self_check", check)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
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


def test_a_fallback_is_told_by_name(machine, capsys: pytest.CaptureFixture) -> None:
    machine.wrong["native"] = "the gradient of B is 0.3 off"
    machine.choose("auto")
    said = capsys.readouterr().out
    assert "native" in said and "the gradient of B is 0.3 off" in said


def test_a_pass_counts_until_the_driver_changes(machine) -> None:
    machine.choose("auto")
    machine.choose("auto")
    assert machine.asked == ["native"]
    machine.driver.write_text("NVRM version: 590.1\n")
    machine.choose("auto")
    assert machine.asked == ["native", "native"]


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


def test_without_a_gpu(tmp_path) -> None:
    assert choose_backend("auto", "cpu", "fp32", tmp_path / "checks") == "torch"
    with pytest.raises(ConfigError, match=r"native.*CPU"):
        choose_backend("native", "cpu", "fp32", tmp_path / "checks")


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
        return out * torch.nan if self.mistake == "nan" else out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_comparison_finds_each_mistake(dtype: torch.dtype) -> None:
    shape = (2, 45, 20, 16)
    assert compare(ReferenceOps(), "cpu", shape, dtype) == ""
    assert "gradient of B" in compare(Wrong("gradient"), "cpu", shape, dtype)
    assert "out is" in compare(Wrong("documents"), "cpu", shape, dtype)
    assert "out is nan" in compare(Wrong("nan"), "cpu", shape, dtype)
