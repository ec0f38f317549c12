"""What is worth an event in the GPUs' readings: errors, clocks held down, GPUs that are gone. Pure.

A failing chip says the same thing hundreds of times: of each kind one event is told in AGAIN_S, with the number of those that were not.
"""

from collections.abc import Iterator

import msgspec
from msgspec.structs import replace

from adam.contract.records import Gpu
from adam.watchdog.probe_words import Reading

AGAIN_S = 600.0
# Clocks are below their highest most of the time; for these reasons something is wrong with cooling or power.
HELD_DOWN = {"hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake"}
FAULTS = {
    "lost": "no GPU answers any more (it has fallen off the bus): no restart of training can help, the machine needs one",
    "mismatch": (
        "the driver was changed under the run: what runs goes on, what starts now finds no GPU; "
        "load the new driver, or restart the machine"
    ),
    "reset": "no GPU can be used before it is reset (nvidia-smi --gpu-reset, as root), or the machine restarted",
}
# What NVIDIA's catalogue says of those that training meets; whether the GPU can go on is asked of the driver, never guessed from these.
XIDS = {
    31: "a program touched memory that is not there",
    48: "a memory error that could not be corrected",
    63: "a bad row of memory will be replaced at the next reset",
    64: "a bad row of memory could not be marked",
    74: "a link to another GPU (NVLink) failed",
    79: "it has fallen off the bus",
    94: "a memory error, kept from other programs",
    95: "a memory error that may have reached other programs",
    119: "its firmware (GSP) does not answer",
    120: "its firmware (GSP) has failed",
    154: "the driver wants something else done to it",
}


POWER = {
    "lowered": "GPU {0.gpu} gets hot: its power limit is lowered to {0.watts:.0f} W of {0.of:.0f} W",
    "raised": "GPU {0.gpu} is cooler: its power limit is raised to {0.watts:.0f} W of {0.of:.0f} W",
    "restored": "GPU {0.gpu}: its power limit is {0.watts:.0f} W again, as it was found",
    "refused": "GPU {0.gpu}: its power limit can't be changed ({0.why}); training goes on without a cap, and pauses for heat as ever",
    "foreign": "GPU {0.gpu}: somebody else has set its power limit to {0.watts:.0f} W; it is left alone",
    "unwritten": "GPU {0.gpu}: its power limit stays {0.watts:.0f} W, since run/power.json can't be written ({0.why})",
}


class News(msgspec.Struct, frozen=True):
    """`key` tells the kinds apart of which one is told in AGAIN_S."""

    key: str
    text: str
    facts: dict[str, str | int]


def news_of(before: Reading, now: Reading) -> Iterator[News]:
    """What the reading `now` says that the last one did not."""
    if now.fault and now.fault != before.fault:
        yield News(now.fault, FAULTS[now.fault], {"fault": now.fault})
    for index in now.lost:
        if index not in before.lost and not now.fault:
            text = f"GPU {index} does not answer any more (it has fallen off the bus): the machine needs a restart"
            yield News(f"lost {index}", text, {"fault": "lost", "gpu": index})
    for xid in now.xids:
        whose = f"GPU {xid.gpu}" if xid.gpu >= 0 else "a GPU"
        yield News(
            f"xid {xid.gpu} {xid.code}",
            f"{whose}: the driver reports Xid {xid.code}" + (f" ({XIDS[xid.code]})" if xid.code in XIDS else ""),
            {"gpu": xid.gpu, "xid": xid.code},
        )
    for word in now.power:
        facts: dict[str, str | int] = {"gpu": word.gpu, "power": word.what, "watts": round(word.watts)}
        yield News(f"power {word.gpu} {word.what}", POWER[word.what].format(word), facts)
    had, has = len(before.gpus) + len(before.lost), len(now.gpus) + len(now.lost)
    if now.sensors == "ok" and has < had:
        yield News("fewer", f"NVML sees {has} GPUs, and saw {had} before", {"fault": "fewer", "gpus": has})
    past = {gpu.index: gpu for gpu in before.gpus}
    for gpu in now.gpus:
        if gpu.index in past:
            yield from _changes(past[gpu.index], gpu)


def _changes(past: Gpu, gpu: Gpu) -> Iterator[News]:
    if past.uncorrected is not None and gpu.uncorrected is not None and gpu.uncorrected > past.uncorrected:
        more = gpu.uncorrected - past.uncorrected
        text = f"GPU {gpu.index}: {more} memory errors that could not be corrected (ECC), {gpu.uncorrected} in all"
        yield News(f"ecc {gpu.index}", text, {"gpu": gpu.index, "uncorrected": gpu.uncorrected})
    if gpu.recovery and gpu.recovery != past.recovery:
        text = f"GPU {gpu.index}: the driver wants this done: {gpu.recovery}"
        yield News(f"recovery {gpu.index}", text, {"gpu": gpu.index, "fault": gpu.recovery})
    held, was = HELD_DOWN.intersection(gpu.clocks or ()), HELD_DOWN.intersection(past.clocks or ())
    if held == was:
        return
    reasons = " ".join(sorted(held))
    text = f"GPU {gpu.index}: clocks are held down ({reasons})" if held else f"GPU {gpu.index}: clocks are free again"
    yield News(f"clocks {gpu.index} {reasons}", text, {"gpu": gpu.index, "clocks": reasons})


class Told(msgspec.Struct, frozen=True):
    """When something was told last, and how often it was not since."""

    at: float
    withheld: int = 0


def ration(told: dict[str, Told], news: Iterator[News], now: float) -> tuple[dict[str, Told], list[News]]:
    """(what is remembered now, what is to be told): of each key one in AGAIN_S. There are as many keys as kinds of news."""
    kept = {key: item for key, item in told.items() if now - item.at < AGAIN_S or item.withheld}
    out = []
    for item in news:
        last = kept.get(item.key)
        if last is not None and now - last.at < AGAIN_S:
            kept[item.key] = replace(last, withheld=last.withheld + 1)
            continue
        more = f" ({last.withheld} more like it since the last one told)" if last is not None and last.withheld else ""
        out.append(News(item.key, item.text + more, item.facts))
        kept[item.key] = Told(now)
    return kept, out
