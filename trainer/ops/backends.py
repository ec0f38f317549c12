"""Who computes the selective scan: chosen at a trainer's start, and checked against the reference before a step is taken with it."""

import hashlib
import importlib.metadata
import importlib.util
from pathlib import Path

import structlog
import torch
from torch import Tensor

from adam.contract import schema
from adam.contract.errors import ConfigError, DataError
from adam.contract.records import KernelChecks
from adam.trainer.ops.interface import Ops
from adam.trainer.ops.mamba_ssm import MambaSsmOps
from adam.trainer.ops.native import NativeOps
from adam.trainer.ops.native_launch import compile_ahead
from adam.trainer.ops.nvrtc import KERNELS, keep_in
from adam.trainer.ops.reference import ReferenceOps

FASTEST_FIRST = ("native", "mamba_ssm")
DRIVER = Path("/proc/driver/nvidia/version")
OPERANDS = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
# Sequences, steps, channels, states: a short one whose channels fill no block, and one that is cut into chunks of time.
CHECKED = ((2, 45, 20, 16), (2, 300, 68, 16))
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}  # of the 2-norm; bf16 rounds to 2e-3

log = structlog.get_logger()


def make_ops(name: str) -> Ops:
    """The backend of that name: native, mamba_ssm or torch."""
    if name == "native":
        return NativeOps()
    if name == "mamba_ssm":
        return MambaSsmOps()
    return ReferenceOps()


def choose_backend(wanted: str, device: str, precision: str, checks: Path, driver: Path = DRIVER) -> str:
    """The name of the backend that shall compute.

    Args:
        wanted: `trainer.backend`. "auto" takes the fastest that passes its self-check, and tells which failed and why.
        device: cuda or cpu.
        precision: fp32 or bf16.
        checks: the file of what has passed; a pass counts for as long as GPU, driver and versions are the same. Beside it, in a
            directory of the same name without its ending, compiled kernels are kept.
        driver: where the driver tells its version.

    Raises ConfigError where a backend that was asked for by name can't be used.
    """
    if wanted == "torch" or (wanted == "auto" and device == "cpu"):
        return "torch"
    if device == "cpu":
        raise ConfigError(
            f"trainer.backend = {wanted!r} needs an NVIDIA GPU, and training is on the CPU",
            "set it to 'auto' or 'torch'",
        )
    keep_in(checks.with_suffix(""))
    for name in FASTEST_FIRST if wanted == "auto" else (wanted,):
        if name == "mamba_ssm" and wanted == "auto" and importlib.util.find_spec("mamba_ssm") is None:
            continue
        wrong = _checked(name, precision, checks, driver)
        if not wrong:
            return name
        if wanted != "auto":
            raise ConfigError(
                f"trainer.backend = {wanted!r} can't be used: {wrong}", "set it to 'auto' or 'torch', or mend that"
            )
        log.error("a backend failed its self-check; training goes on with a slower one", backend=name, why=wrong)
    return "torch"


def _checked(name: str, precision: str, checks: Path, driver: Path) -> str:
    """What is wrong with a backend; empty if nothing is, now or when it was last looked."""
    where = f"{_identity(name, driver)}, {precision}"
    passed = _passed(checks)
    if where in passed:
        return ""
    wrong = self_check(name, precision)
    if not wrong:
        try:
            schema.save(checks, KernelChecks(passed=[*passed, where]))
        except OSError as error:  # a full disk costs the next start three seconds, not this one
            log.warning("a passed self-check can't be noted", why=str(error))
    return wrong


def _passed(checks: Path) -> list[str]:
    try:
        known = schema.load(checks, KernelChecks)
    except DataError as error:
        log.warning("what passed a self-check is looked at again", why=str(error))
        return []
    return known.passed if known else []


def _identity(name: str, driver: Path) -> str:
    kernels = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(KERNELS.iterdir()))).hexdigest()[:12]
    version = kernels if name == "native" else importlib.metadata.version("mamba_ssm")
    loaded = driver.read_text().splitlines()[0] if driver.exists() else "an unknown driver"
    return f"{name} {version}, torch {torch.__version__}, {torch.cuda.get_device_name()}, {loaded}"


def self_check(name: str, precision: str) -> str:
    """What a backend's scan does wrong on this machine's GPU, forward, backward and with documents; empty if nothing."""
    try:
        ops = make_ops(name)
        if isinstance(ops, NativeOps):
            compile_ahead(DTYPES[precision], CHECKED[0][3], torch.cuda.current_device())
        for shape in CHECKED:
            wrong = compare(ops, "cuda", shape, DTYPES[precision])
            if wrong:
                return wrong
    except torch.OutOfMemoryError:
        raise
    except (ImportError, RuntimeError, ValueError) as error:  # a kernel that is not found, compiled or launched
        return f"{type(error).__name__}: {error}"
    return ""


def compare(ops: Ops, device: str, shape: tuple[int, int, int, int], dtype: torch.dtype) -> str:
    """The first result of a scan that is not the reference's in fp64, by name and distance; empty if all are."""
    values, resets, dout = _operands(shape, dtype, device)
    exact = {name: value.detach().cpu().double().requires_grad_() for name, value in values.items()}
    found, right = (
        _both_ways(ops, values, resets, dout),
        _both_ways(ReferenceOps(), exact, resets.cpu(), dout.cpu().double()),
    )
    for name, a, b in zip(("out", *(f"the gradient of {name}" for name in OPERANDS)), found, right, strict=True):
        distance = float((a.cpu().double() - b).norm() / b.norm())
        if not distance <= TOLERANCE[dtype]:  # NaN is no small number
            return (
                f"selective_scan, {dtype}: {name} is {distance:.1e} off the reference's (allowed: {TOLERANCE[dtype]})"
            )
    return ""


def _operands(
    shape: tuple[int, int, int, int], dtype: torch.dtype, device: str
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    batch, length, channels, states = shape
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    sequence, each = (batch, length, channels), (batch, length, states)
    shapes = (sequence, sequence, (channels, states), each, each, (channels,), sequence, (channels,))
    values = {name: draw(*size) for name, size in zip(OPERANDS, shapes, strict=True)}
    values["A"] = -values["A"].exp()
    kept = ("A", "D", "delta_bias")  # fp32 in any case
    values = {
        name: value.to(device, torch.float32 if name in kept else dtype).requires_grad_()
        for name, value in values.items()
    }
    resets = torch.rand(batch, length, generator=generator) < 0.05
    return values, resets.to(device), draw(*sequence).to(device, dtype)


def _both_ways(ops: Ops, values: dict[str, Tensor], resets: Tensor, dout: Tensor) -> list[Tensor]:
    out = ops.selective_scan(**values, resets=resets)
    return [out.detach(), *torch.autograd.grad(out, tuple(values.values()), dout)]
