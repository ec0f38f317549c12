"""Heat: which GPUs are too hot to train on. Pure.

Each GPU has its own hysteresis: too hot above any of its upper limits, cool again only when it is below all of the lower ones.
What a sensor does not say changes nothing: a GPU that was never seen too hot is not; one that was, and can't be seen any more, stays
so for `blind_s`. By then a chip that computes nothing has cooled, and a broken sensor must not hold training for ever; the chip
itself slows down and switches off before it is harmed.
"""

from adam.contract.records import Gpu
from adam.contract.steplog import MOST_WAITING
from adam.watchdog.policy_turn import Turn
from adam.watchdog.policy_words import HeatLimits, Hot, Stage


def words(gpu: Gpu) -> str:
    """`GPU 0 at 95 °C`, with what else is known of its heat."""
    facts = [f"at {gpu.temperature_c} °C"] if gpu.temperature_c is not None else []
    facts += [f"{gpu.margin_c} °C below its own limit"] if gpu.margin_c is not None else []
    facts += [f"memory at {gpu.memory_temperature_c} °C"] if gpu.memory_temperature_c is not None else []
    return f"GPU {gpu.index} " + ", ".join(facts)


def too_hot(limits: HeatLimits, gpu: Gpu) -> bool:
    """True above any upper limit."""
    return (
        (gpu.temperature_c is not None and gpu.temperature_c > limits.pause)
        or (gpu.margin_c is not None and gpu.margin_c < limits.pause_margin)
        or (gpu.memory_temperature_c is not None and gpu.memory_temperature_c > limits.pause_memory)
    )


def seen(gpu: Gpu) -> bool:
    """True where anything is known of its heat."""
    return (gpu.temperature_c, gpu.margin_c, gpu.memory_temperature_c) != (None, None, None)


def cool(limits: HeatLimits, gpu: Gpu) -> bool:
    """True where something is known, and all of it is below the lower limits."""
    return (
        seen(gpu)
        and (gpu.temperature_c is None or gpu.temperature_c < limits.resume)
        and (gpu.margin_c is None or gpu.margin_c > limits.resume_margin)
        and (gpu.memory_temperature_c is None or gpu.memory_temperature_c < limits.resume_memory)
    )


def feel(turn: Turn) -> None:
    """Take the temperatures that were seen; tell which GPUs have become too hot, and which are so no more."""
    if turn.memory.stage == Stage.DONE:  # nothing is trained: whatever heats the GPUs, it is not ours to pause
        turn.set(hot=())
        return
    present = {gpu.index: gpu for gpu in turn.seen.gpus} if turn.seen.sensors == "ok" else {}
    still = [kept for hot in turn.memory.hot if (kept := stays_hot(turn, hot, present.get(hot.gpu)))]
    known = {hot.gpu for hot in turn.memory.hot}
    for gpu in present.values():
        if gpu.index not in known and too_hot(turn.settings.heat, gpu):
            still.append(Hot(gpu.index, words(gpu)))
            turn.tell(
                "heat",
                f"{words(gpu)}: training pauses until it is cool",
                gpu=gpu.index,
                temperature_c=gpu.temperature_c,
                margin_c=gpu.margin_c,
                memory_temperature_c=gpu.memory_temperature_c,
            )
    if still or turn.memory.hot:
        turn.set(hot=tuple(sorted(still, key=lambda hot: hot.gpu)))


def stays_hot(turn: Turn, hot: Hot, gpu: Gpu | None) -> Hot | None:
    """A GPU that was too hot, as it is now; None where it is so no more, or was not seen for long enough."""
    if gpu is not None and seen(gpu):
        if not cool(turn.settings.heat, gpu):
            return Hot(gpu.index, words(gpu))
        turn.tell("heat", f"{words(gpu)}: cool again", gpu=gpu.index, temperature_c=gpu.temperature_c)
        return None
    unseen = turn.now if hot.unseen is None else hot.unseen
    limit = turn.settings.heat.blind_s
    if turn.now - unseen >= limit:
        turn.tell("heat", f"{hot.text} when it was last seen, {limit:g} s ago: taken to be cool by now", gpu=hot.gpu)
        return None
    turn.note(f"{hot.text} when it was last seen, and its sensors say nothing: paused for {limit:g} s at most")
    turn.wake(unseen + limit)
    return Hot(hot.gpu, hot.text, unseen)


def pauses_of(turn: Turn) -> tuple[str, ...]:
    """Who wants training to stand still: people, by name, the heat, and a log of steps that can't wait any more for room."""
    heat = ("heat",) if turn.memory.hot and "heat" not in turn.seen.desired.pauses else ()
    pulse = turn.pulse if turn.memory.plan is not None else None
    disk = ("disk",) if pulse is not None and pulse.unlogged >= MOST_WAITING else ()
    return (*turn.seen.desired.pauses, *heat, *disk)


def pause_words(turn: Turn) -> str:
    """`paused by human, heat (GPU 0 at 95 °C)`."""
    if not pauses_of(turn):
        return "paused no more, and about to go on"
    degrees = "; ".join(hot.text for hot in turn.memory.hot)
    return "paused by " + ", ".join(pauses_of(turn)) + (f" ({degrees})" if degrees else "")
