"""A run that stands still although each failure, for itself, is only tried again: people are told of it, and nothing is given up. Pure.

What a program brings upon itself (it crashes or hangs at the same step, whatever is done) may never pass by itself: an older checkpoint is
tried once, and then an event says that the run is stuck, once a loop and once a day. What kills whatever starts is the machine's, and passes.
"""

from msgspec.structs import replace

from adam.contract.states import FailureClass, Phase
from adam.watchdog.policy_turn import Turn
from adam.watchdog.policy_words import Failures

HUNG = "hang"
OF_ITSELF = frozenset({HUNG, "SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL"})
TELL_AGAIN_S = 86400.0
UNLAUNCHED_S = 60.0  # that supervisord may take to answer before people are told


def begun(turn: Turn) -> bool:
    """True where the program had come to its work, so that its end says something of the place that the work had come to."""
    return turn.pulse is not None and turn.pulse.phase >= Phase.TRAINING


def is_stuck(turn: Turn, failures: Failures, detail: str) -> bool:
    of_itself = failures.kind == FailureClass.HOST and detail in OF_ITSELF and begun(turn)
    return of_itself and failures.same >= max(2, turn.settings.same_failures)  # one crash is no loop


def tell_stuck(turn: Turn, failures: Failures, detail: str, step: int) -> None:
    """Alert people, where they have not been for a day."""
    if failures.told is not None and turn.now - failures.told < TELL_AGAIN_S:
        return
    turn.set(failures=replace(failures, told=turn.now))
    also = ", also from an older checkpoint" if failures.older_tried else ""
    turn.tell(
        "stuck",
        f"the run does not get beyond step {step}: {failures.text}, {failures.same} times there{also}; it is tried again without end",
        failure=failures.kind,
        detail=detail,
        step=step,
        times=failures.same,
        reason=f"{detail} at step {step}",
    )


def note_stuck(turn: Turn) -> None:
    """Shown as long as no attempt has come further."""
    memory = turn.memory
    further = memory.best > memory.best_before or memory.forged > memory.forged_before
    if memory.failures.told is not None and memory.final is None and not further:
        turn.note(f"{memory.failures.text}: {memory.failures.same} times at the same step, without progress")


def tell_unlaunched(turn: Turn) -> None:
    """Alert people, once, where nothing can be started for long."""
    memory, waited = turn.memory, turn.now - turn.memory.since
    turn.wake(memory.since + UNLAUNCHED_S)
    if memory.unlaunched_told or waited < UNLAUNCHED_S:
        return
    turn.set(unlaunched_told=True)
    text = f"{turn.plan.program} can't be started for {waited:.0f} s: {turn.seen.launch_error}; it is asked for again and again"
    turn.tell("stuck", text, seconds=round(waited, 3), reason="not launched")
