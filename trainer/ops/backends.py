"""Who computes the selective scan: chosen at a trainer's start, and checked against the reference before a step is taken with it."""

import hashlib
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import NamedTuple

import structlog
import torch

from adam.contract import schema
from adam.contract.errors import ConfigError, DataError
from adam.contract.records import KernelChecks
from adam.trainer.ops import cpu_build
from adam.trainer.ops.cpu import CpuOps
from adam.trainer.ops.interface import Ops
from adam.trainer.ops.mamba_ssm import MambaSsmOps
from adam.trainer.ops.native import NativeOps
from adam.trainer.ops.nvrtc import keep_in
from adam.trainer.ops.reference import ReferenceOps
from adam.trainer.ops.self_check import first_line, self_check, self_check_cpu

FASTEST_FIRST = ("native", "mamba_ssm")
DRIVER = Path("/proc/driver/nvidia/version")
TRIES = 2  # of a self-check that does not come back; the next start does without the backend

log = structlog.get_logger()


class Choice(NamedTuple):
    """The backend that shall compute, and the faster ones that failed: `native: the gradient of B is …`."""

    name: str
    failed: tuple[str, ...] = ()


def make_ops(name: str, device: str = "cuda") -> Ops:
    """The backend of that name: native, mamba_ssm or torch. On a CPU `native` raises BuildError where it can't be compiled."""
    if name == "native":
        return CpuOps() if device == "cpu" else NativeOps()
    if name == "mamba_ssm":
        return MambaSsmOps()
    return ReferenceOps()


def choose_backend(
    wanted: str, device: str, precision: str, states: int, checks: Path, driver: Path = DRIVER, arch: str = ""
) -> Choice:
    """The backend that shall compute.

    Args:
        wanted: `trainer.backend`. "auto" takes the fastest that passes its self-check, and tells which failed and why.
        device: cuda or cpu.
        precision: fp32 or bf16.
        states: of a channel, as the model has them: another number takes other kernels.
        checks: the file of what has passed; a pass counts for as long as GPU, driver, versions and our code are the same. Beside
            it, in a directory of the same name without its ending, compiled kernels are kept.
        driver: where the driver tells its version.
        arch: mamba1 or mamba2: what the other one alone computes is neither compiled nor checked; empty: all is.

    Raises ConfigError where a backend that was asked for by name can't be used, RuntimeError where a self-check has left no GPU that
    computes.
    """
    if wanted == "torch":
        return Choice("torch")
    if device == "cpu" and wanted == "mamba_ssm":
        raise ConfigError(
            f"trainer.backend = {wanted!r} needs an NVIDIA GPU, and training is on the CPU",
            "set it to 'auto' or 'torch'",
        )
    keep_in(checks.with_suffix(""))
    cpu_build.keep_in(checks.with_suffix(""))
    failed: list[str] = []
    for name in _candidates(wanted, device):
        wrong = _checked(name, device, precision, states, checks, driver, arch)
        if not wrong:
            return Choice(name, tuple(failed))
        if wanted != "auto":
            raise ConfigError(
                f"trainer.backend = {wanted!r} can't be used: {wrong}", "set it to 'auto' or 'torch', or mend that"
            )
        log.error("a backend failed its self-check; training goes on with a slower one", backend=name, why=wrong)
        failed.append(f"{name}: {wrong}")
    return Choice("torch", tuple(failed))


def _candidates(wanted: str, device: str) -> tuple[str, ...]:
    """What is tried, the fastest first; what is plainly not there is left out where it was not asked for by name."""
    if wanted != "auto":
        return (wanted,)
    if device == "cpu":
        if cpu_build.compiler() is not None:
            return ("native",)
        log.warning("no C++ compiler is here: the scan is computed by the reference, several times slower than C++")
        return ()
    return tuple(name for name in FASTEST_FIRST if name == "native" or importlib.util.find_spec(name) is not None)


def _checked(name: str, device: str, precision: str, states: int, checks: Path, driver: Path, arch: str) -> str:
    """What is wrong with a backend; empty if nothing is, now or when it was last looked.

    That a check begins is noted first: one that hangs, or takes the process with it, is not begun for ever.
    """
    try:
        where = f"{_identity(name, device, driver)}, {precision}, {states} states{arch and f', {arch}'}"
    except cpu_build.BuildError as error:
        return str(error)
    except importlib.metadata.PackageNotFoundError:
        return f"{name} is not installed (it comes with `pip install 'adam-trainer[cuda]'`)"
    known = _known(checks)
    if where in known.passed:
        return ""
    tries = known.begun.get(where, 0)
    if tries >= TRIES:
        return f"its self-check did not come back {tries} times: it hung, or ended the trainer ({checks} remembers; delete it to try again)"
    _note(checks, where, begun=tries + 1)
    try:
        on_cpu = device == "cpu"
        wrong = _wrong_on_cpu(precision, states) if on_cpu else self_check(make_ops(name), precision, states, arch)
    except torch.OutOfMemoryError:  # says nothing about the backend
        _note(checks, where)
        raise
    if wrong and device == "cuda":
        _gpu_computes(f"{name}: {wrong}")
    _note(checks, where, passed=not wrong)
    return wrong


def _wrong_on_cpu(precision: str, states: int) -> str:
    try:
        return self_check_cpu(CpuOps(), precision, states)
    except cpu_build.BuildError as error:
        return str(error)


def _gpu_computes(wrong: str) -> None:
    """Raise RuntimeError where a kernel has left this process without its GPU: no other backend could compute in it either."""
    try:
        torch.cuda.synchronize()
    except RuntimeError as error:
        raise RuntimeError(f"a self-check ended CUDA in this process ({wrong}): {first_line(error)}") from error


def _known(checks: Path) -> KernelChecks:
    try:
        return schema.load(checks, KernelChecks) or KernelChecks(passed=[])
    except DataError as error:
        log.warning("what passed a self-check is looked at again", why=str(error))
        return KernelChecks(passed=[])


def _note(checks: Path, where: str, *, begun: int = 0, passed: bool = False) -> None:
    """A self-check has begun for the so-manieth time, or (0) come back."""
    known = _known(checks)
    others = {key: tries for key, tries in known.begun.items() if key != where}
    noted = KernelChecks(
        passed=[*known.passed, where] if passed and where not in known.passed else known.passed,
        begun=others | ({where: begun} if begun else {}),
    )
    try:
        schema.save(checks, noted)
    except OSError as error:  # a full disk costs the next start three seconds, not this one
        log.warning("a self-check can't be noted", why=str(error))


def _identity(name: str, device: str, driver: Path) -> str:
    """What a pass holds for. Raises PackageNotFoundError, BuildError."""
    here = Path(__file__).parent
    code = sorted(path for path in here.rglob("*") if path.suffix in {".py", ".cu", ".cuh", ".cpp", ".h"})
    ours = hashlib.sha256(b"".join(path.read_bytes() for path in code)).hexdigest()[:12]
    if device == "cpu":
        return f"{name} {ours} compiled as {cpu_build.key()}, torch {torch.__version__}"
    version = ours if name == "native" else f"{importlib.metadata.version('mamba_ssm')} by {ours}"
    loaded = driver.read_text().splitlines()[0] if driver.exists() else "an unknown driver"
    return f"{name} {version}, torch {torch.__version__}, {torch.cuda.get_device_name()}, {loaded}"
