"""Listening to the pulse: how long a program has been quiet, and how long it may be. Pure.

Quiet time is added up tick by tick, and a tick counts for one second at most: a machine that slept, or a watchdog that was
stopped, has heard nothing and must not hold that against the program.
"""

import math

from msgspec.structs import replace

from adam.contract.shared import Pulse
from adam.contract.states import Phase
from adam.watchdog.policy_words import Listening, Settings

LONGEST_TICK_S = 1.0
GAP_BASE_S = 0.25  # the first class of gaps; each next one is GAP_STEP times as long
GAP_STEP = math.sqrt(2.0)
GAP_CLASSES = 32  # up to 0.25 s × 2^16 = 4.5 h
GAPS_KEPT = 4096  # at this many the counts are halved, so that a run may change its speed
TIMES_P99 = 5.0
ENDING_S = 60.0  # to tear an interpreter with a GPU down
FORGING_S = 60.0

UNBORN = {Phase.IMPORTING, Phase.LOADING, Phase.TRAINING}


def gap_class(seconds: float) -> int:
    if seconds <= GAP_BASE_S:
        return 0
    return min(GAP_CLASSES - 1, math.ceil(math.log(seconds / GAP_BASE_S, GAP_STEP)))


def add_gap(gaps: tuple[int, ...], seconds: float) -> tuple[int, ...]:
    counts = list(gaps or (0,) * GAP_CLASSES)
    counts[gap_class(seconds)] += 1
    return tuple(count // 2 for count in counts) if sum(counts) >= GAPS_KEPT else tuple(counts)


def p99(gaps: tuple[int, ...]) -> float:
    """Seconds that 99 % of the gaps do not exceed, rounded up to their class; 0.0 where nothing was heard yet."""
    total, seen = sum(gaps), 0
    for number, count in enumerate(gaps):
        seen += count
        if total and seen >= 0.99 * total:
            return GAP_BASE_S * GAP_STEP**number
    return 0.0


def listen(past: Listening, pulse: Pulse | None, now: float) -> Listening:
    """What is known after a tick at `now`; `pulse` is the present attempt's, or None where it has not beaten yet."""
    tick = min(max(0.0, now - past.tick), LONGEST_TICK_S)
    unborn = past.unborn_s + (tick if not past.trained and (past.phase < 0 or past.phase in UNBORN) else 0.0)
    if pulse is None or (pulse.progress == past.progress and pulse.phase == past.phase):
        return replace(past, quiet_s=past.quiet_s + tick, unborn_s=unborn, tick=now)
    training = pulse.phase == Phase.TRAINING
    stepping = training and past.phase == Phase.TRAINING
    return Listening(
        progress=pulse.progress,
        phase=pulse.phase,
        quiet_s=0.0,
        unborn_s=unborn,
        tick=now,
        # Entering the phase is one sign of life, the first micro-step is the next.
        trained=past.trained or stepping or pulse.phase >= Phase.READING,
        gaps=add_gap(past.gaps, past.quiet_s + tick) if stepping and past.trained else past.gaps,
    )


def deadline_s(settings: Settings, past: Listening) -> float:
    """Seconds of quiet after which a program in this phase hangs."""
    stepping = max(settings.hang_seconds, TIMES_P99 * p99(past.gaps))
    match past.phase:
        case Phase.TRAINING | Phase.EVALUATING:
            return stepping if past.trained else settings.start_seconds
        case Phase.PAUSED:
            return settings.hang_seconds
        case Phase.SAVING | Phase.LEARNING | Phase.CHECKING:
            return settings.save_seconds
        case Phase.ENDING:
            return ENDING_S
        case Phase.READING | Phase.ENCODING:
            return FORGING_S
    return settings.start_seconds


def left_s(settings: Settings, past: Listening, letter: str) -> float:
    """Seconds of quiet that are left before it is a hang; not above zero: it hangs. `letter`: see Observation.child_letter."""
    left = deadline_s(settings, past) - past.quiet_s
    if letter == "T":  # somebody stopped the process: whatever it was doing, it is not doing it
        left = min(left, settings.hang_seconds - past.quiet_s)
    return left if past.trained else min(left, settings.start_seconds - past.unborn_s)
