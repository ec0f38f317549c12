"""Which events become alerts, and which are only counted: rate-limited, and the same thing once in a while. Pure.

An event that is withheld is not lost: the next alert of its kind says how many there were, or a summary when the time is over.
"""

import msgspec

from adam.contract.events import Event

HOUR_S = 3600.0
FINAL = frozenset({"finished", "failed", "stopped"})  # told whatever was told before
TELLING = ("failure", "sensors", "reason")  # facts that make one event of a kind another thing than the next


class AlertRules(msgspec.Struct, frozen=True):
    """`per_hour`: alerts in any hour; `repeat_s`: until the same thing is told again."""

    kinds: frozenset[str]
    per_hour: int
    repeat_s: float


class Told(msgspec.Struct, frozen=True):
    """When something was told or first withheld, and how often it was withheld since."""

    at: float
    text: str
    withheld: int = 0


class AlertMemory(msgspec.Struct, frozen=True):
    """Times in seconds of CLOCK_BOOTTIME."""

    sent: tuple[float, ...] = ()
    told: dict[str, Told] = {}


def key_of(event: Event) -> str:
    return " ".join([event.kind, *(str(event.facts[name]) for name in TELLING if name in event.facts)])


def hear(rules: AlertRules, memory: AlertMemory, event: Event, now: float) -> tuple[AlertMemory, str]:
    """What to remember, and the text of the alert; no text: nothing is to be sent."""
    if event.kind not in rules.kinds:
        return memory, ""
    key, sent = key_of(event), _lately(memory, now)
    past = memory.told.get(key)
    repeated = past is not None and now - past.at < rules.repeat_s
    if event.kind not in FINAL and (repeated or len(sent) >= rules.per_hour):
        held = Told(past.at if past else now, event.text, (past.withheld if past else 0) + 1)
        return AlertMemory(sent, {**memory.told, key: held}), ""
    told = {**memory.told, key: Told(now, event.text)}
    return AlertMemory((*sent, now), told), event.text + _more(past.withheld if past else 0)


def summary(rules: AlertRules, memory: AlertMemory, now: float) -> tuple[AlertMemory, str]:
    """The oldest thing that was withheld for long enough; things that were not are forgotten."""
    over = [(told.at, key) for key, told in memory.told.items() if now - told.at >= rules.repeat_s]
    kept = {key: told for key, told in memory.told.items() if told.withheld or now - told.at < rules.repeat_s}
    due = sorted(item for item in over if item[1] in kept)
    sent = _lately(memory, now)
    if not due or len(sent) >= rules.per_hour:
        return AlertMemory(sent, kept), ""
    key = due[0][1]
    told = kept[key]
    text = f"{told.text} (last of {told.withheld} that were not told)" if told.withheld > 1 else told.text
    return AlertMemory((*sent, now), {**kept, key: Told(now, told.text)}), text


def _lately(memory: AlertMemory, now: float) -> tuple[float, ...]:
    return tuple(at for at in memory.sent if now - at < HOUR_S)


def _more(withheld: int) -> str:
    return f" ({withheld} more like it were not told)" if withheld else ""
