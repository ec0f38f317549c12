"""The checks of `adamctl doctor` about torch, the driver and the GPUs: decisions on facts that were asked for in other processes."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from adam.daemon.doctor_words import Finding, bad, ok, warn

INDEX = "ADAM_TORCH_INDEX=https://download.pytorch.org/whl/"
REINSTALL = "delete .venv and run bin/adamctl with it"
# The first driver (Linux) of each major version of CUDA, by NVIDIA's release notes; later minor versions run on it too.
FIRST_DRIVER = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
# torch's build for drivers of each major version of CUDA.
BUILDS = {12: "cu126", 13: "cu130"}
OLDEST = (8, 0)  # what our kernels, and bf16, want
ASK_TORCH = """
import json, torch
seen, why = torch.cuda.is_available(), ""
if not seen and torch.version.cuda:
    try:
        torch.cuda.init()
    except Exception as error:
        why = str(error)
count = torch.cuda.device_count() if seen else 0
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "seen": seen, "why": why,
    "built_for": torch.cuda.get_arch_list() if seen else [],
    "gpus": [torch.cuda.get_device_name(i) for i in range(count)],
    "arches": ["sm_%d%d" % torch.cuda.get_device_capability(i) for i in range(count)]}))
"""


class Surroundings(msgspec.Struct, frozen=True):
    """What of this machine says why torch may see no GPU."""

    visible: str | None = None  # $CUDA_VISIBLE_DEVICES
    module: str = ""  # the version of the driver that the kernel has loaded; empty: none
    devices: bool = False  # there is a /dev/nvidia0
    nvml: dict[str, Any] = {}  # what NVML says: driver, gpus, cuda (its version), or error


def surroundings(nvml: dict[str, Any]) -> Surroundings:
    version = Path("/proc/driver/nvidia/version")
    found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", version.read_text()) if version.exists() else None
    devices = any(Path("/dev").glob("nvidia[0-9]*"))
    return Surroundings(os.environ.get("CUDA_VISIBLE_DEVICES"), found[1] if found else "", devices, nvml)


def check_torch(answer: dict[str, Any], around: Surroundings) -> Iterator[Finding]:
    """torch imports, sees the GPUs, and was built for them."""
    if "error" in answer:
        yield bad(f"torch can't be imported: {answer['error']}", "delete .venv and run bin/adamctl again")
        return
    if not answer["seen"]:
        yield no_gpu(answer, around)
        return
    yield ok(f"torch {answer['version']} for CUDA {answer['cuda']} sees {', '.join(answer['gpus'])}")
    for arch, name in sorted(set(zip(answer["arches"], answer["gpus"], strict=True))):
        yield from check_architecture(arch, name, answer)
    if len(set(answer["gpus"])) > 1:
        first = answer["gpus"][0]
        yield warn(
            f"the GPUs are of different kinds ({', '.join(answer['gpus'])}): a run trains on the first, {first}",
            "CUDA_VISIBLE_DEVICES=N names another one",
        )


def check_architecture(arch: str, name: str, answer: dict[str, Any]) -> Iterator[Finding]:
    """Whether this build of torch has code for a GPU, and our kernels can be compiled for it."""
    if not runs_on(arch, answer["built_for"]):
        yield bad(
            f"torch {answer['version']} has no code for {arch} ({name}): it was built for {', '.join(answer['built_for'])}",
            f"take a newer build ({INDEX}cu130 has Blackwell, sm_100 and sm_120), then {REINSTALL}",
        )
    if capability(arch) < OLDEST:
        yield warn(
            f"{name} is {arch}: our kernels and fast bf16 need sm_{OLDEST[0]}{OLDEST[1]} or later",
            "training would take the reference backend, many times slower: use a GPU of 2020 or later",
        )


def capability(arch: str) -> tuple[int, int]:
    """(10, 3) of `sm_103`, `sm_103a` or `compute_103`."""
    digits = re.sub(r"\D", "", arch)
    return int(digits[:-1]), int(digits[-1])


def runs_on(arch: str, built_for: list[str]) -> bool:
    """Machine code runs on later chips of the same major version (but where it is for one chip alone: sm_90a), PTX on all later ones."""
    chip = capability(arch)
    for built in built_for:
        code = capability(built)
        if built.startswith("compute_") and code <= chip:
            return True
        if code == chip or (code[0] == chip[0] and code <= chip and not built.endswith("a")):
            return True
    return False


def no_gpu(answer: dict[str, Any], around: Surroundings) -> Finding:
    """Why torch sees no GPU: the first cause that the facts speak for."""
    what = f"torch {answer['version']} sees no GPU: training would run on the CPU"
    if not around.nvml.get("gpus") and not around.module and not around.devices:
        return warn(
            what, "for GPUs: install NVIDIA's driver (`nvidia-smi` must show them); without one this is as it should be"
        )
    if around.visible is not None and not around.visible.strip("- 1"):
        return warn(f"{what} (CUDA_VISIBLE_DEVICES is {around.visible!r})", "unset CUDA_VISIBLE_DEVICES")
    if answer["cuda"] is None:
        build = BUILDS.get(major(around.nvml.get("cuda")), BUILDS[13])
        return bad(f"{what}: this torch is a build without CUDA, and there is a GPU", f"{INDEX}{build}: {REINSTALL}")
    return old_driver(answer["cuda"], around) or silent_gpu(what, answer.get("why", ""), around)


def silent_gpu(what: str, why: str, around: Surroundings) -> Finding:
    """There are a GPU, a driver and a torch that go together, and yet."""
    if around.module and not around.devices:
        return bad(
            f"{what}: the driver {around.module} is loaded, and there is no /dev/nvidia0",
            "in a container: docker run --gpus all; else run `nvidia-modprobe`, or `nvidia-smi` as root",
        )
    if "not yet initialized" in why:
        todo = "start NVIDIA's fabric manager: systemctl start nvidia-fabricmanager"
        return bad(f"{what}: {first_line(why)}", todo)
    said = first_line(why) or around.nvml.get("error", "") or "NVML sees them"
    return bad(f"{what}: {said}", "see `nvidia-smi` and `dmesg | grep -i nvrm`; a reboot mends most of it")


def old_driver(built: str, around: Surroundings) -> Finding | None:
    """The driver knows only an older CUDA than torch was built with. NVML tells the newest that it knows."""
    needs, knows = major(built), major(around.nvml.get("cuda"))
    if not knows or knows >= needs:
        return None
    build = BUILDS.get(knows)
    other = f", or {INDEX}{build}: {REINSTALL}" if build else ""
    return bad(
        f"the driver {around.nvml.get('driver', '')} is too old for this torch: it knows CUDA {around.nvml['cuda']}, "
        f"torch was built with {built}",
        f"install driver {FIRST_DRIVER.get(needs, 'of CUDA ' + built)} or later{other}",
    )


def major(version: str | None) -> int:
    """13 of `13.0`; 0 where it is not known."""
    return int((version or "0").partition(".")[0])


def first_line(text: str) -> str:
    return next(iter(text.splitlines()), "")


def check_nvml(answer: dict[str, Any], module: str = "") -> Finding:
    """The sensors; without them training works, and nobody sees the heat. module: the driver that the kernel has loaded."""
    if "mismatch" in answer.get("error", "").lower():
        loaded = f" (the kernel has {module})" if module else ""
        return warn(
            f"NVML does not fit the driver that is loaded{loaded}: the driver was upgraded under it",
            "reboot, when it suits: what trains goes on; what is started anew may find no GPU, and nobody sees the heat",
        )
    if "error" in answer:
        return warn(f"NVML does not answer: {answer['error']}", "on a machine with NVIDIA GPUs: see `nvidia-smi`")
    if answer["lost"]:
        return bad(
            f"NVML of driver {answer['driver']} sees {len(answer['gpus'])} GPUs, and not {', '.join(answer['lost'])}",
            "reboot; where that does not help, reseat the card and its power",
        )
    return ok(f"NVML of driver {answer['driver']} sees {', '.join(answer['gpus']) or 'no GPU'}")
