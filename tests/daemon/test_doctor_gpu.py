"""`adamctl doctor` on machines with GPUs that are in the way of training: facts made up, the cause and the cure that are said."""

import msgspec
import pytest

from adam.contract import ram
from adam.daemon import doctor_build, doctor_memory
from adam.daemon.doctor_build import Facts, check_build, facts
from adam.daemon.doctor_machine import ask
from adam.daemon.doctor_memory import check_snapshots_fit
from adam.daemon.doctor_torch import Surroundings, check_nvml, check_torch, runs_on
from adam.daemon.doctor_words import Mark

HOPPER = {"driver": "580.95.05", "cuda": "13.0", "gpus": ["NVIDIA H200"], "lost": []}
BLACKWELL = {**HOPPER, "gpus": ["NVIDIA B200"]}
STABLE = ["sm_75", "sm_80", "sm_86", "sm_90"]
NEW = [*STABLE, "sm_100", "sm_120"]


def torch(*gpus: tuple[str, str], built_for: list[str] = NEW, **more) -> dict:
    return {
        "version": "2.13.0", "cuda": "13.0", "seen": bool(gpus), "why": "", "built_for": built_for, "gpus": [name for name, _ in gpus],
        "arches": [arch for _, arch in gpus], **more,
    }  # fmt: skip


def around(nvml: dict | None = None, **more) -> Surroundings:
    return Surroundings(**{"nvml": nvml or {}, "module": "580.95.05", "devices": True, **more})


def test_a_machine_that_is_well() -> None:
    (finding,) = check_torch(torch(("NVIDIA H200", "sm_90"), ("NVIDIA H200", "sm_90")), around(HOPPER))
    assert finding.mark == Mark.OK and "sees NVIDIA H200, NVIDIA H200" in finding.what


@pytest.mark.parametrize(("name", "arch"), [("NVIDIA B200", "sm_100"), ("NVIDIA GeForce RTX 5090", "sm_120")])
def test_a_torch_without_code_for_blackwell(name: str, arch: str) -> None:
    (_, finding) = check_torch(torch((name, arch), built_for=STABLE), around(BLACKWELL))
    assert finding.mark == Mark.BAD
    assert f"has no code for {arch} ({name}): it was built for {', '.join(STABLE)}" in finding.what
    assert "whl/cu130" in finding.todo
    assert len(list(check_torch(torch((name, arch)), around(BLACKWELL)))) == 1


@pytest.mark.parametrize(
    ("arch", "built", "runs"),
    [
        ("sm_90", ["sm_90"], True),
        ("sm_89", ["sm_86"], True),  # of the same major version, older
        ("sm_86", ["sm_89"], False),
        ("sm_103", ["sm_100"], True),
        ("sm_103", ["sm_100a"], False),  # for that very chip
        ("sm_120", ["sm_100"], False),
        ("sm_100", ["sm_90", "compute_90"], True),  # the driver compiles it
        ("sm_80", ["compute_90"], False),
    ],
)
def test_what_runs_on_what(arch: str, built: list[str], runs: bool) -> None:
    assert runs_on(arch, built) is runs


def test_a_gpu_that_is_too_old() -> None:
    (_, finding) = check_torch(torch(("Tesla T4", "sm_75")), around())
    assert finding.mark == Mark.WARN and "Tesla T4 is sm_75" in finding.what and "reference backend" in finding.todo


def test_two_gpus_of_different_kinds() -> None:
    (_, finding) = check_torch(torch(("NVIDIA H200", "sm_90"), ("NVIDIA A100", "sm_80")), around())
    assert finding.mark == Mark.WARN and "of different kinds (NVIDIA H200, NVIDIA A100)" in finding.what
    assert "CUDA_VISIBLE_DEVICES" in finding.todo


NOTHING = Surroundings()
NO_GPU = [
    # (what torch says, what is around), mark, words of the cause, words of the cure
    ((torch(), NOTHING), Mark.WARN, "training would run on the CPU", "install NVIDIA's driver"),
    ((torch(cuda=None), around(HOPPER)), Mark.BAD, "a build without CUDA", "whl/cu130"),
    ((torch(cuda=None), around({**HOPPER, "cuda": "12.4"})), Mark.BAD, "a build without CUDA", "whl/cu126"),
    ((torch(), around({**HOPPER, "driver": "550.54", "cuda": "12.4"})), Mark.BAD, "550.54 is too old", "driver 580.65.06 or later"),
    ((torch(cuda="12.6"), around({**HOPPER, "driver": "470.1", "cuda": "11.4"})), Mark.BAD, "470.1 is too old", "525.60.13"),
    ((torch(), around({"error": "Driver Not Loaded"}, devices=False)), Mark.BAD, "no /dev/nvidia0", "--gpus all"),
    ((torch(), around(HOPPER, visible="")), Mark.WARN, "CUDA_VISIBLE_DEVICES is ''", "unset"),
    ((torch(), around(HOPPER, visible="-1")), Mark.WARN, "CUDA_VISIBLE_DEVICES is '-1'", "unset"),
    ((torch(why="system not yet initialized\nmore"), around(HOPPER)), Mark.BAD, "not yet initialized", "nvidia-fabricmanager"),
    ((torch(why="CUDA unknown error"), around(HOPPER)), Mark.BAD, "CUDA unknown error", "reboot"),
    ((torch(), around(HOPPER, visible="0")), Mark.BAD, "NVML sees them", "nvidia-smi"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "mark", "cause", "cure"), NO_GPU)
def test_no_gpu_is_seen(given: tuple, mark: Mark, cause: str, cure: str) -> None:
    (finding,) = check_torch(*given)
    assert finding.mark == mark
    assert cause in finding.what and cure in finding.todo
    assert "\n" not in finding.line()


def test_nvml_that_does_not_fit() -> None:
    finding = check_nvml({"error": "Driver/library version mismatch"}, "575.51")
    assert finding.mark == Mark.WARN and "the kernel has 575.51" in finding.what and "reboot" in finding.todo


def said(**found) -> str:
    return "\n".join(finding.line() for finding in check_build(Facts(**found)))


def test_nvcc_is_not_needed_and_nvrtc_is() -> None:
    assert (
        said()
        == "ok    there is no nvcc, and none is needed: kernels are compiled at a start by the NVRTC that torch brings"
    )
    assert said(nvcc="/usr/local/cuda/bin/nvcc").startswith("ok    nvcc is at /usr/local/cuda/bin/nvcc; nothing")
    assert said(gpu=True, nvrtc="No module named 'cuda'").startswith("bad   our kernels can't be compiled")
    assert "pip install cuda-bindings nvidia-cuda-nvrtc" in said(gpu=True, nvrtc="x")


def test_extensions_of_another_torch() -> None:
    error = "ImportError: selective_scan_cuda.so: undefined symbol: _ZN3c1021throwNullDataPtrErrorEv"
    text = said(extensions={"mamba_ssm": error, "causal_conv1d": ""}, header="/x/Python.h", compiler="/usr/bin/gcc")
    assert "warn  mamba_ssm was built against another torch" in text and "pip uninstall mamba-ssm" in text
    assert "--no-build-isolation" in text and "ok    causal_conv1d can be imported" in text
    assert "lacks a part" in said(extensions={"mamba_ssm": "ModuleNotFoundError: No module named 'triton'"})
    assert "can't be imported" in said(extensions={"mamba_ssm": "exit -11"})


def test_headers_matter_to_those_who_build() -> None:
    assert "Python.h" not in said()
    assert "-dev; the native backend needs neither" in said(extensions={"mamba_ssm": "undefined symbol: x"})
    assert "apt-get install gcc" in said(extensions={"mamba_ssm": ""}, gpu=True, header="/x/Python.h")
    assert "are there, for those" in said(extensions={"mamba_ssm": ""}, gpu=True, header="/x", compiler="/usr/bin/gcc")


def test_datasets_and_fsspec_of_different_years() -> None:
    together = {"datasets": "5.2.0", "fsspec": "2026.1.0", "datasets_wants": ">=2023.1.0,<=2026.2.0"}
    assert "ok    datasets 5.2.0 and fsspec 2026.1.0 go together" in said(**together)
    for wrong in ({"fsspec": "2026.9.0"}, {"datasets": "2.14.1", "datasets_wants": ""}):
        text = said(**{**together, **wrong})
        assert "warn" in text and "Invalid pattern: '**'" in text and "--upgrade datasets fsspec" in text
    assert "datasets" not in said(fsspec="2026.1.0")


def test_the_facts_of_this_machine_are_gathered(monkeypatch) -> None:
    found = facts(ask, gpu=False)
    assert found.fsspec and not found.nvrtc
    monkeypatch.setattr(doctor_build.importlib.util, "find_spec", lambda name: object())
    asked: list[str] = []
    found = facts(lambda code: asked.append(code) or {"error": "undefined symbol: x"}, gpu=True)
    assert set(found.extensions) == {"mamba_ssm", "causal_conv1d"} and len(asked) == 3 and found.nvrtc
    compile(asked[0], "asked", "exec")


def test_too_little_shared_memory_says_how_much_is_wanted(world, monkeypatch) -> None:
    config = world.config()
    model = msgspec.structs.replace(config.model, d_model=2560, n_layer=64, vocab_size=50280)
    paths = world.run(config=msgspec.structs.replace(config, model=model))
    monkeypatch.setattr(ram.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 64 << 20, "total": 64 << 20}))
    (finding,) = check_snapshots_fit(paths)
    assert "have" not in finding.todo and "--shm-size=7" in finding.todo  # 66 GB of states through 0.8, in GiB
    assert "the last checkpoint" in finding.todo
    assert "cgroup" in doctor_memory.more_shm("the memory limit of this cgroup has 3 GB left", 1)
