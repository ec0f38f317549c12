"""Listening to the pulse: how long a program has been quiet, and how long it may be. Pure.

Quiet time is added up tick by tick, and a tick counts for one second at most: a machine that slept, or a watchdog that was
stopped, has heard nothing and must not hold that against the program.
"""

from msgspec.structs import replace

from adam.contract.shared import Pulse
from adam.contract.states import Phase
from adam.watchdog.policy_gaps import add_gap, learnt_s
from adam.watchdog.policy_words import Listening, Settings

LONGEST_TICK_S = 1.0
ENDING_S = 60.0  # to tear an interpreter with a GPU down
FORGING_S = 60.0
SAVING_S = (
    60.0  # a save is never given less: memory under pressure and a slow disk stall it far beyond what it usually takes
)
WARMING_STEPS = 2  # updates of an attempt, behind which all is compiled
SAVES_LEARNT = 8  # before that many saves are known, one may take save_seconds

UNBORN = {Phase.IMPORTING, Phase.LOADING, Phase.TRAINING}
# The phases whose deadlines are learnt. The first quiet time of each in an attempt is not, as it has compilation in it; but the
# first save is, since where it goes may have changed from memory to a disk.
LEARNT = {Phase.TRAINING, Phase.EVALUATING, Phase.SAVING, Phase.PAUSED, Phase.READING, Phase.ENCODING}


def gaps_of(past: Listening, phase: int) -> tuple[int, ...]:
    """The quiet times of a phase so far; () where none was heard."""
    return next((counts for known, counts in past.learnt if known == phase), ())


def learn(past: Listening, seconds: float) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """What is learnt with a quiet time of the present phase that has just ended."""
    if past.phase not in LEARNT or (past.phase not in past.warm and past.phase != Phase.SAVING):
        return past.learnt
    others = tuple(item for item in past.learnt if item[0] != past.phase)
    return tuple(sorted((*others, (past.phase, add_gap(gaps_of(past, past.phase), seconds)))))


def listen(past: Listening, pulse: Pulse | None, now: float, *, first_step: int = 0, beaten: bool = False) -> Listening:
    """What is known after a tick at `now`; `pulse` is the present attempt's, or None where it has not beaten yet.

    `first_step`: the step that a trainer went on from. `beaten`: it is being ended. A quiet time that a blow has ended says nothing of
    what a program survives by itself.
    """
    tick = min(max(0.0, now - past.tick), LONGEST_TICK_S)
    unborn = past.unborn_s + (tick if not past.trained and (past.phase < 0 or past.phase in UNBORN) else 0.0)
    if pulse is None or (pulse.progress == past.progress and pulse.phase == past.phase):
        return replace(past, quiet_s=past.quiet_s + tick, unborn_s=unborn, tick=now)
    if past.phase == Phase.LOADING:
        unborn = 0.0  # 33 GB of a slow disk take what they take, as long as bytes come
    stepping = pulse.phase == Phase.TRAINING and past.phase == Phase.TRAINING
    within = past.phase in (pulse.phase, Phase.SAVING)  # a save has one sign of life: its end
    warm = {past.phase} & LEARNT if within else set()
    if pulse.phase == Phase.TRAINING and pulse.step >= first_step + WARMING_STEPS:
        # Small models do hundreds of steps between two looks: what was not seen moving has moved all the same.
        stepping, warm = True, warm | {Phase.TRAINING}
    return Listening(
        progress=pulse.progress,
        phase=pulse.phase,
        quiet_s=0.0,
        unborn_s=unborn,
        tick=now,
        # Entering the phase is one sign of life, the first micro-step is the next.
        trained=past.trained or stepping or pulse.phase >= Phase.READING,
        learnt=past.learnt if beaten else learn(past, past.quiet_s + tick),
        warm=tuple(sorted({*past.warm, *warm})),
    )


def deadline_s(settings: Settings, past: Listening) -> float:
    """Seconds of quiet after which a program in this phase hangs: learnt where it has a history, else generous."""
    gaps, first = gaps_of(past, past.phase), past.phase not in past.warm
    match past.phase:
        case Phase.TRAINING | Phase.EVALUATING if first:
            deadline = settings.start_seconds
        case Phase.TRAINING | Phase.EVALUATING | Phase.PAUSED:
            deadline = learnt_s(gaps, settings.hang_seconds, settings.start_seconds)
        case Phase.SAVING if not first and sum(gaps) >= SAVES_LEARNT:
            floor = min(settings.save_seconds, max(SAVING_S, settings.hang_seconds))
            deadline = learnt_s(gaps, floor, settings.save_seconds)
        case Phase.SAVING | Phase.LEARNING | Phase.CHECKING:
            deadline = settings.save_seconds
        case Phase.ENDING:
            deadline = ENDING_S
        case Phase.READING | Phase.ENCODING:
            deadline = learnt_s(gaps, FORGING_S, settings.save_seconds)
        case _:
            deadline = settings.start_seconds
    return deadline


def left_s(settings: Settings, past: Listening, letter: str) -> float:
    """Seconds of quiet that are left before it is a hang; not above zero: it hangs. `letter`: see Observation.child_letter."""
    left = deadline_s(settings, past) - past.quiet_s
    if letter == "T":  # somebody stopped the process: whatever it was doing, it is not doing it
        left = min(left, settings.hang_seconds - past.quiet_s)
    return left if past.trained else min(left, settings.start_seconds - past.unborn_s)
