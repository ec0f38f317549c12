"""Where the numerics of a run changed between two attempts: a break in exactness that is shown, never hidden. Pure."""

import msgspec

from adam.contract.records import Numerics


class NumericsMemory(msgspec.Struct, frozen=True):
    """The numerics of the last attempt that told them, and the breaks so far."""

    last: Numerics | None = None
    breaks: tuple[str, ...] = ()


def hear_numerics(memory: NumericsMemory, now: Numerics | None) -> tuple[NumericsMemory, str]:
    """(what to remember, the new break or nothing): `step 1200: threads 2 -> 4`."""
    if now is None or (memory.last is not None and now.attempt == memory.last.attempt):
        return memory, ""
    if memory.last is None or memory.last.fingerprint == now.fingerprint:
        return NumericsMemory(now, memory.breaks), ""
    before = memory.last.parts
    changed = [
        f"{key} {before.get(key, '(none)')} -> {now.parts.get(key, '(none)')}"
        for key in sorted({*before, *now.parts})
        if before.get(key) != now.parts.get(key)
    ]
    found = f"step {now.step}: {', '.join(changed)}"
    return NumericsMemory(now, (*memory.breaks, found)), found
