"""The checks of `adamctl doctor` that look at the machine.

Whatever could block for ever (a GPU's driver) or is heavy (torch) is asked in a process of its own, with a time-out.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from adam.daemon.doctor_build import check_build, facts
from adam.daemon.doctor_torch import ASK_TORCH, check_nvml, check_torch, surroundings
from adam.daemon.doctor_words import Finding, ok, warn

ASK_S = 60.0
EARLIEST_CLOCK = 1_767_225_600  # 2026-01-01: before it a clock was never set
CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"

ASK_NVML = """
import json, pynvml
try:
    pynvml.nvmlInit()
    gpus, lost = [], []
    for i in range(pynvml.nvmlDeviceGetCount()):
        try:
            gpus.append(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(i)))
        except pynvml.NVMLError as error:
            lost.append(f"GPU {i}: {error}")
    cuda = pynvml.nvmlSystemGetCudaDriverVersion_v2()
    print(json.dumps({"driver": pynvml.nvmlSystemGetDriverVersion(), "cuda": f"{cuda // 1000}.{cuda % 1000 // 10}",
        "gpus": gpus, "lost": lost}))
except pynvml.NVMLError as error:
    print(json.dumps({"error": str(error)}))
"""


def check_machine() -> Iterator[Finding]:
    yield check_python()
    nvml, torch = ask(ASK_NVML), ask(ASK_TORCH)
    around = surroundings(nvml)
    yield from check_torch(torch, around)
    yield check_nvml(nvml, around.module)
    yield from check_build(facts(ask, gpu=bool(torch.get("seen"))))
    yield from check_versions(CONSTRAINTS)
    yield check_clock(time.time())


def ask(code: str, timeout: float = ASK_S) -> dict[str, Any]:
    """What a Python of its own prints as JSON; `error` where it fails or takes too long."""
    command = [sys.executable, "-P", "-W", "ignore", "-c", code]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer in {timeout:g} s"}
    if done.returncode != 0:
        return {"error": (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def check_python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return ok(f"Python {version} at {sys.executable}")


def check_versions(constraints: Path) -> Iterator[Finding]:
    """Libraries of other versions than those that were tested together."""
    if not constraints.exists():
        yield warn("constraints.txt is not beside the code: the versions of libraries were not compared", "")
        return
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", constraints.read_text(), re.MULTILINE))
    other = []
    for name, version in pinned.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # only for tests, or not needed by this torch
        if found.partition("+")[0] != version:
            other.append(f"{name} {found} (tested: {version})")
    if other:
        yield warn(f"other versions than tested: {', '.join(other)}", "bin/adamctl installs the tested ones into .venv")
    else:
        yield ok("the libraries have the tested versions")


def check_clock(now: float) -> Finding:
    if now < EARLIEST_CLOCK:
        return warn(
            f"the clock says {time.strftime('%Y-%m-%d', time.gmtime(now))}",
            "set it (NTP): time stamps would mislead people",
        )
    return ok(f"the clock says {time.strftime('%Y-%m-%d %H:%M', time.gmtime(now))} UTC")
