"""Whether there is a GPU to train on, and whether an error says that there is none any more."""

import torch

from adam.contract.config import Trainer
from adam.contract.errors import ConfigError, GpuError

# What CUDA and torch say where no program could do anything on the GPU (cudaGetErrorString; the numbers are those of cudaError_t). An
# assert, an illegal address or a launch that failed may be our own fault: whether the GPU is to blame for them, the sensors say.
GONE = (
    "no CUDA-capable device is detected",  # 100
    "invalid device ordinal",  # 101
    "all CUDA-capable devices are busy or unavailable",  # 46
    "CUDA driver version is insufficient",  # 35
    "uncorrectable ECC error encountered",  # 214
    "uncorrectable NVLink error",  # 220
    "hardware stack error",  # 714
    "system not yet initialized",  # 802
    "unsupported display driver / cuda driver combination",  # 803
    "forward compatibility was attempted on non supported HW",  # 804
    "CUDA error: unknown error",  # 999
    "CUDA driver initialization failed",
    "CUDA unknown error",
    "No CUDA GPUs are available",
    "Found no NVIDIA driver",
)


def is_gpu_gone(error: RuntimeError) -> bool:
    """True for errors after which the same program finds no GPU again."""
    return any(words in str(error) for words in GONE)


def choose_device(config: Trainer, was_on: str) -> str:
    """`cuda` or `cpu`. `was_on`: the device of the run's last attempt, empty before the first one.

    A run that was on a GPU does not go on without one by itself: it would take for ever, with other bits. Raises GpuError there, ConfigError
    where a run that is to begin on a GPU has none.
    """
    if config.device == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if was_on.startswith("cuda"):
        raise GpuError(
            f"torch sees no GPU, and this run was on {was_on.removeprefix('cuda ')}",
            "run `adamctl doctor`; trainer.device = 'cpu' goes on without",
        )
    if config.device == "cuda":
        raise ConfigError(
            "trainer.device = 'cuda', but torch sees no GPU", "run `adamctl doctor`, or set it to 'auto' or 'cpu'"
        )
    return "cpu"
