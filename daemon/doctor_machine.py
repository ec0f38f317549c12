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

from adam.daemon.doctor_words import Finding, bad, ok, warn

ASK_S = 60.0
SMALL_SHM = 1 << 30
EARLIEST_CLOCK = 1_767_225_600  # 2026-01-01: before it a clock was never set
CONSTRAINTS = Path(__file__).resolve().parent.parent / "constraints.txt"

ASK_TORCH = """
import json, torch
seen = torch.cuda.is_available()
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "seen": seen,
    "built_for": torch.cuda.get_arch_list() if seen else [],
    "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if seen else [],
    "arches": ["sm_%d%d" % torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())] if seen else []}))
"""
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
    print(json.dumps({"driver": pynvml.nvmlSystemGetDriverVersion(), "gpus": gpus, "lost": lost}))
except pynvml.NVMLError as error:
    print(json.dumps({"error": str(error)}))
"""


def check_machine() -> Iterator[Finding]:
    yield check_python()
    yield from check_torch(ask(ASK_TORCH))
    yield check_nvml(ask(ASK_NVML))
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


def check_torch(answer: dict[str, Any]) -> Iterator[Finding]:
    """torch imports, sees the GPUs, and was built for them."""
    if "error" in answer:
        yield bad(f"torch can't be imported: {answer['error']}", "delete .venv and run bin/adamctl again")
        return
    if not answer["seen"]:
        todo = (
            "for GPUs: a driver, and a torch built for CUDA (ADAM_TORCH_INDEX)"
            if answer["cuda"] is None
            else "see `nvidia-smi`"
        )
        yield warn(f"torch {answer['version']} sees no GPU: training would run on the CPU", todo)
        return
    yield ok(f"torch {answer['version']} for CUDA {answer['cuda']} sees {', '.join(answer['gpus'])}")
    for arch in sorted(set(answer["arches"]) - set(answer["built_for"])):
        yield warn(f"this torch was not built for {arch}", "choose another build with ADAM_TORCH_INDEX")


def check_nvml(answer: dict[str, Any]) -> Finding:
    """The sensors; without them training works, and nobody sees the heat."""
    if "error" in answer:
        return warn(f"NVML does not answer: {answer['error']}", "on a machine with NVIDIA GPUs: see `nvidia-smi`")
    if answer["lost"]:
        return bad(
            f"NVML of driver {answer['driver']} sees {len(answer['gpus'])} GPUs, and not {', '.join(answer['lost'])}",
            "reboot; where that does not help, reseat the card and its power",
        )
    return ok(f"NVML of driver {answer['driver']} sees {', '.join(answer['gpus']) or 'no GPU'}")


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
