"""What the probe says to the watchdog."""

import msgspec

from adam.contract.records import Gpu


class Xid(msgspec.Struct, frozen=True):
    """An error that the driver has reported (https://docs.nvidia.com/deploy/xid-errors)."""

    gpu: int  # -1: not known which
    code: int


class PowerWord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a GPU's power limit: lowered, raised, restored; refused (by the driver), foreign (somebody else has set it),
    unwritten (what it was can't be written down, so it stays)."""

    gpu: int
    what: str
    watts: float = 0.0  # the limit now
    of: float = 0.0  # … and as it was found
    why: str = ""


class Held(msgspec.Struct, frozen=True):
    """A GPU whose power limit is lowered to `watts`, from `of`."""

    gpu: int
    watts: float
    of: float


class Reading(msgspec.Struct, frozen=True, omit_defaults=True):
    """One look at all GPUs; `sensors` is ok, none (no NVIDIA driver) or unknown.

    `lost` are GPUs that do not answer any more; `fault` is lost (none does), mismatch (the driver was changed), reset (NVML
    itself wants one) or empty.
    """

    sensors: str
    gpus: tuple[Gpu, ...] = ()
    why: str = ""
    lost: tuple[int, ...] = ()
    fault: str = ""
    xids: tuple[Xid, ...] = ()
    power: tuple[PowerWord, ...] = ()
    held: tuple[Held, ...] = ()
