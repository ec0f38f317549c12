"""What the probe says to the watchdog."""

import msgspec

from adam.contract.records import Gpu


class Xid(msgspec.Struct, frozen=True):
    """An error that the driver has reported (https://docs.nvidia.com/deploy/xid-errors)."""

    gpu: int  # -1: not known which
    code: int


class Reading(msgspec.Struct, frozen=True, omit_defaults=True):
    """One look at all GPUs; `sensors` is ok, none (no NVIDIA driver) or unknown.

    `lost` are GPUs that do not answer any more while others do; `fault` is lost (all are), mismatch (the driver was changed) or empty.
    """

    sensors: str
    gpus: tuple[Gpu, ...] = ()
    why: str = ""
    lost: tuple[int, ...] = ()
    fault: str = ""
    xids: tuple[Xid, ...] = ()
