"""How torch is set up, and the fingerprint of all that decides the bits of a run."""

import hashlib
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import msgspec
import structlog
import torch
from torch import nn

from adam.contract.config import Trainer
from adam.contract.errors import ConfigError
from adam.contract.model import ModelConfig
from adam.contract.records import Plan
from adam.trainer.gpu import choose_device
from adam.trainer.ops import cpu_build
from adam.trainer.ops.backends import choose_backend
from adam.trainer.ops.fp8 import Fp8Linear, misfit, unusable
from adam.trainer.ops.native_linear import NativeLinear

SCAN_STATES = 16

log = structlog.get_logger()


class Runtime(msgspec.Struct, frozen=True):
    """The resolved device and numerics of an attempt."""

    device: str
    precision: str
    backend: str
    threads: int
    micro_batch: int
    ranks: int = 1
    failed: tuple[str, ...] = ()  # faster backends that failed their self-check

    def autocast(self) -> torch.autocast:
        """What the model computes in."""
        return torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.precision != "fp32")

    @property
    def linear(self) -> type[nn.Linear]:
        """What in_proj and out_proj of each block are."""
        if self.precision == "fp8":
            return Fp8Linear
        return NativeLinear if self.backend == "native" and self.device == "cuda" else nn.Linear

    def parts(self) -> dict[str, str]:
        """What the bits hang on, as text."""
        name = torch.cuda.get_device_name() if self.device == "cuda" else torch.backends.cpu.get_cpu_capability()
        compiled = self.device == "cpu" and self.backend == "native"
        parts = {
            "torch": str(torch.__version__),
            "python": platform.python_version(),
            "machine": platform.machine(),
            "device": f"{self.device} {name}",
            "precision": self.precision,
            "backend": self.backend,
            "threads": str(self.threads),
            "micro_batch": str(self.micro_batch),
            **({"operators": cpu_build.key()} if compiled else {}),  # sources, compiler, CPU
        }
        return parts if self.ranks == 1 else {**parts, "ranks": str(self.ranks)}


def fingerprint(parts: dict[str, str]) -> str:
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()[:16]


def set_up(
    config: Trainer, model: ModelConfig, plan: Plan, kernel_checks: Path, before: Mapping[str, str], ranks: int = 1
) -> Runtime:
    """Choose device, precision, backend and threads, and make torch deterministic.

    kernel_checks: where it stands which backends have passed their self-check. before: the `parts` of the run's last attempt; empty: none.
    ranks: how many train together.

    Raises ConfigError where the configuration asks for what this machine does not have, GpuError where it has no GPU any more.
    """
    device = choose_device(config, before.get("device", ""))
    precision = config.precision if config.precision != "auto" else ("bf16" if device == "cuda" else "fp32")
    threads = config.threads or max(1, len(os.sched_getaffinity(0)) // ranks)
    micro_batch = plan.micro_batch or config.micro_batch
    if config.batch_size % (ranks * micro_batch):
        among = f" among {ranks} GPUs" if ranks > 1 else ""
        raise ConfigError(
            f"the plan's micro-batch {micro_batch} does not divide trainer.batch_size = {config.batch_size}{among}"
        )
    torch.set_num_threads(threads)
    # What use_deterministic_algorithms(True) sets too, but that imports inductor: 1.2 s of each start.
    torch.set_deterministic_debug_mode("error")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # would write each new tensor twice
    scan_type = "fp32" if precision == "fp32" else "bf16"
    wanted = _wanted(plan.backend or config.backend, device, before)
    choice = choose_backend(wanted, device, scan_type, scan_states(model), kernel_checks, arch=model.arch)
    if precision == "fp8":
        require_fp8(model, device)
    return Runtime(device, precision, choice.name, threads, micro_batch, ranks, choice.failed)


def _wanted(backend: str, device: str, before: Mapping[str, str]) -> str:
    """A run that began with the reference on a CPU keeps it, and with it the bits of its losses, until people choose."""
    kept = before.get("backend") == "torch" and before.get("device", "").startswith("cpu")
    if backend == "auto" and device == "cpu" and kept:
        log.info("the reference goes on computing, as in the attempt before; trainer.backend = 'native' is faster")
        return "torch"
    return backend


def require_fp8(model: ModelConfig, device: str) -> None:
    """Raise ConfigError where this model can't be trained in fp8 on this machine. After `choose_backend`: it says where kernels are kept."""
    if why := misfit(model) or ("training is on the CPU" if device == "cpu" else unusable()):
        raise ConfigError(f"trainer.precision = 'fp8' can't be used: {why}", "set it to 'auto'")


def scan_states(model: ModelConfig) -> int:
    """States a channel of the selective scan. Mamba-2 has none: what a backend is checked with is then Mamba's usual number."""
    return model.d_state or SCAN_STATES if model.arch == "mamba1" else SCAN_STATES
