"""What the probe says to the watchdog."""

import msgspec

from adam.contract.records import Gpu


class Reading(msgspec.Struct, frozen=True, omit_defaults=True):
    """One look at all GPUs; `sensors` is ok, none (no NVIDIA driver) or unknown."""

    sensors: str
    gpus: tuple[Gpu, ...] = ()
    why: str = ""
