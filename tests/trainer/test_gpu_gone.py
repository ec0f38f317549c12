"""A run that was on a GPU, where there is none any more."""

import pytest
import torch
from small_run import make_run, small_config, write_plan

from adam.contract import schema
from adam.contract.config import Trainer
from adam.contract.errors import ConfigError, GpuError
from adam.contract.records import Numerics
from adam.contract.states import FAILURE_OF_EXIT, FailureClass
from adam.trainer.attempt import run_attempt
from adam.trainer.gpu import GONE, choose_device, is_gpu_gone
from adam.trainer.model.lm import MambaLM


@pytest.mark.parametrize(
    ("device", "there", "was_on", "found"),
    [
        ("cpu", True, "cuda H200", "cpu"),
        ("auto", True, "", "cuda"),
        ("auto", True, "cpu avx2", "cuda"),
        ("cuda", True, "cuda H200", "cuda"),
        ("auto", False, "", "cpu"),
        ("auto", False, "cpu avx2", "cpu"),
        ("auto", False, "cuda H200", GpuError),
        ("cuda", False, "cuda H200", GpuError),
        ("cuda", False, "", ConfigError),
    ],
)
def test_the_device_of_an_attempt(monkeypatch, device, there, was_on, found) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    config = Trainer(device=device)
    if isinstance(found, str):
        assert choose_device(config, was_on) == found
    else:
        with pytest.raises(found, match="torch sees no GPU"):
            choose_device(config, was_on)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_run_that_was_on_a_gpu_does_not_go_on_on_the_cpu(tmp_path) -> None:
    paths = make_run(tmp_path / "run", small_config(device="auto"))
    write_plan(paths)
    was = Numerics(attempt=1, step=3, fingerprint="x", parts={"device": "cuda NVIDIA H200"})
    schema.save(paths.numerics, was)
    with pytest.raises(GpuError, match=r"this run was on NVIDIA H200; .* trainer[.]device = 'cpu' goes on without"):
        run_attempt(paths.root, 1, lambda: False)
    assert schema.load(paths.numerics, Numerics) == was  # the next attempt is told the same
    paths.numerics.write_text("{")
    write_plan(paths, 2)
    assert run_attempt(paths.root, 2, lambda: False)


@pytest.mark.parametrize(
    "words", [*GONE, "CUDA error: device-side assert triggered", "CUDA error: unspecified launch failure"]
)
def test_what_cuda_says_of_a_gpu_that_is_gone_and_of_code_that_is_wrong(tmp_path, monkeypatch, words) -> None:
    paths = make_run(tmp_path / "run")
    write_plan(paths)

    def fails(*_: object):
        raise RuntimeError(f"{words}\nCUDA kernel errors might be asynchronously reported")

    monkeypatch.setattr(MambaLM, "loss", fails)
    with pytest.raises(GpuError if words in GONE else RuntimeError, match=words.replace("/", ".")) as raised:
        run_attempt(paths.root, 1, lambda: False)
    assert isinstance(raised.value, GpuError) == (words in GONE)
    if words in GONE:
        assert str(raised.value).count("\n") == 0 and FAILURE_OF_EXIT[raised.value.exit_code] == FailureClass.GPU


def test_too_little_memory_is_not_a_lost_gpu() -> None:
    assert not is_gpu_gone(RuntimeError("CUDA error: out of memory"))
