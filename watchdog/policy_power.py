"""The power cap: how much a GPU that gets hot may draw, so that it is slowed down before training has to pause. Pure.

While fewer than `room` degrees are left to the pause, the limit goes down a step at a time; with twice as many left it goes up again, to
what it was. A step takes its time to show: a heat sink is slow.
"""

import msgspec

from adam.contract.records import Gpu
from adam.watchdog.policy_words import HeatLimits

STEP = 0.05  # of the limit that was found


class CapRules(msgspec.Struct, frozen=True, kw_only=True):
    """`floor_w`: the least watts that a GPU is held down to; 0: nothing is ever lowered. `room`: °C to the pause. `every_s`: of a step."""

    floor_w: float = 0.0
    room: float = 4.0
    every_s: float = 20.0
    heat: HeatLimits = HeatLimits()


class Orders(msgspec.Struct, frozen=True):
    """What the probe is told: where it writes down what it changes, and by which rules."""

    file: str
    rules: CapRules = CapRules()


class Cap(msgspec.Struct, frozen=True):
    """A GPU's limit. `original_w`: as it was found; `least_w`: what the chip allows; `since`: seconds, when it was changed last."""

    original_w: float
    limit_w: float
    least_w: float
    since: float | None = None


def room_of(heat: HeatLimits, gpu: Gpu) -> float | None:
    """Degrees left until training would pause for this GPU, by whichever sensor is nearest; None where none tells."""
    rooms = [] if gpu.temperature_c is None else [heat.pause - gpu.temperature_c]
    rooms += [] if gpu.margin_c is None else [gpu.margin_c - heat.pause_margin]
    rooms += [] if gpu.memory_temperature_c is None else [heat.pause_memory - gpu.memory_temperature_c]
    return min(rooms) if rooms else None


def wanted_limit(rules: CapRules, cap: Cap, room: float | None, now: float) -> float:
    """The limit in watts from `now` (seconds) on: never above the one that was found, nor below the floor, the chip's, or itself."""
    if not rules.floor_w:
        return cap.original_w
    if room is None or (cap.since is not None and now - cap.since < rules.every_s):
        return cap.limit_w
    step = STEP * cap.original_w
    if room < rules.room:
        return min(cap.limit_w, max(rules.floor_w, cap.least_w, cap.limit_w - step))
    if room > 2 * rules.room:
        return min(cap.original_w, cap.limit_w + step)
    return cap.limit_w
