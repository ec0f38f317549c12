"""The policy when an attempt has ended: what it was, and what is changed for the next one. Pure.

config, data at the start      failed at once, with the program's last line
numeric                        back to before it, without the data that led there (`policy_numeric`)
memory                         fewer samples at once (`policy_memory`)
no GPU                         waits for one, and is no failure of training (`policy_gpu`)
code, data, …                  the same one `same_failures` times without progress: an older checkpoint once, then failed
checkpoint                     everything is verified again, the bad one put away
host (killed, hung), disk      tried again for ever, at growing intervals; what a program brings upon itself, `same_failures` times at the
                               same step, from an older checkpoint once, and then people are told (`policy_stuck`)
"""

import signal

from msgspec.structs import replace

from adam.contract.records import ExitReport
from adam.contract.states import FAILURE_OF_EXIT, Exit, FailureClass
from adam.watchdog.detect import Trouble
from adam.watchdog.pace import deaths_lately
from adam.watchdog.policy_gpu import is_to_blame, miss
from adam.watchdog.policy_memory import shrink
from adam.watchdog.policy_numeric import failure_of, needs_rollback, roll_back, words
from adam.watchdog.policy_stuck import HUNG, begun, is_stuck, tell_stuck
from adam.watchdog.policy_turn import Turn
from adam.watchdog.policy_words import Failures, Stage

# The same input gives the same failure: trying again for ever would help nobody.
DETERMINISTIC = {
    FailureClass.CODE,
    FailureClass.NUMERIC,
    FailureClass.MEMORY,
    FailureClass.DATA,
    FailureClass.CHECKPOINT,
}
# What these are the program itself says, in its last lines.
TELLING = {FailureClass.CODE, FailureClass.CONFIG, FailureClass.DATA}
WORN_OUT = 3  # times `same_failures`: as many of these failures without progress, however they differ


def classify(report: ExitReport) -> tuple[FailureClass, str, str]:
    """(class, what tells it from others of its class, a line for people) of an attempt that did not end with 0."""
    words = report.tail[-1] if report.tail else ""
    if report.signal is not None:
        name = signal_name(report.signal)
        if report.oom_killed:
            return FailureClass.MEMORY, "oom", "killed by the kernel: the machine is out of memory"
        return FailureClass.HOST, name, f"ended by {name}" + (" (core dumped)" if report.core else "")
    code = report.code if report.code is not None else Exit.CODE
    if code == Exit.STOPPED:
        return FailureClass.HOST, "stopped", "somebody stopped it, not we"
    if code == Exit.INTERRUPTED:
        return FailureClass.HOST, "interrupted", "interrupted from a keyboard"
    kind = FAILURE_OF_EXIT.get(code, FailureClass.CODE)
    return kind, f"exit {code}", f"{words or 'no word in its log'} (exit code {code}, {kind})"


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def finish(turn: Turn, report: ExitReport | None) -> None:
    """The attempt is over: back to IDLE, with what is to be remembered of its end."""
    memory, program = turn.memory, turn.plan.program
    trouble = needs_rollback(turn)
    turn.enter(Stage.IDLE, settled=None, asked=0.0)
    if trouble is not None:
        fail(turn, *failure_of(trouble), words(trouble, report), report, trouble)
    elif memory.stop_asked is not None:
        turn.tell("ended", f"{program} ended, as it was asked to", **facts_of(report))
    elif memory.hang is not None:
        fail(turn, FailureClass.HOST, HUNG, f"{program} hung", report)
    elif report is None and memory.untold:
        told = f"{program} has ended, and how could not be written: the disk is failing"
        fail(turn, FailureClass.DISK, "untold", told)
    elif report is None:
        fail(turn, FailureClass.HOST, "lost", f"{program} ended without a report: its launcher was killed too")
    elif report.code != Exit.OK:
        kind, detail, text = classify(report)
        fail(turn, kind, detail, f"{program}: {text}", report)
    elif program == "trainer":
        turn.set(ended_well=True)
        turn.tell("ended", "the trainer ended by itself", **facts_of(report))
    elif turn.seen.data_ready:
        turn.tell("ended", "the forge is done: the data are ready", **facts_of(report))
    else:
        fail(turn, FailureClass.DATA, "not ready", "the forge ended well, but the data are not ready", report)


def facts_of(report: ExitReport | None) -> dict[str, str | int | float | bool | None]:
    if report is None:
        return {}
    return {
        "code": report.code,
        "signal": signal_name(report.signal) if report.signal is not None else None,
        "core": report.core,
        "oom_killed": report.oom_killed,
        "max_rss_bytes": report.max_rss_bytes,
        "attempt": report.attempt,
    }


def fail(
    turn: Turn,
    kind: FailureClass,
    detail: str,
    text: str,
    report: ExitReport | None = None,
    trouble: Trouble | None = None,
) -> None:
    """Remember a failure and choose what is changed: nothing but the time, the plan, the checkpoint, or that it goes on at all."""
    memory = turn.memory
    step = turn.pulse.step if turn.pulse else (turn.plan.resume.step if turn.plan.resume else 0)
    if trouble is None and is_to_blame(turn, kind):
        miss(turn, text, detail, step, facts_of(report))
        return
    past = Failures() if progressed(turn) else memory.failures
    early = " at its start" if kind == FailureClass.HOST and not begun(turn) else ""
    signature = f"{turn.plan.program} {kind} {detail}{early} step {step}"
    failures = replace(
        past,
        in_a_row=past.in_a_row + 1,
        deterministic=past.deterministic + (kind in DETERMINISTIC),
        signature=signature,
        same=past.same + 1 if signature == past.signature else 1,
        kind=kind,
        text=text,
        log="\n".join(report.tail) if report is not None and kind in TELLING else "",
    )
    wait = turn.backoff_s(failures.in_a_row)
    deaths = deaths_lately((*memory.deaths, turn.now), turn.now) if turn.plan.program == "trainer" else memory.deaths
    doubtful = detail == HUNG or failures.in_a_row > 1
    turn.set(failures=failures, not_before=turn.now + wait, crashed=True, deaths=deaths, doubtful=doubtful)
    told = {"detail": detail, "step": step, "in_a_row": failures.in_a_row, **facts_of(report), **log_of(failures)}
    turn.tell("crashed", text, failure=kind.value, **told)
    if kind == FailureClass.CONFIG or (kind == FailureClass.DATA and not memory.listening.trained):
        turn.set(verdict=text)
    elif trouble is not None:
        roll_back(turn, trouble)
    elif shrink(turn, kind):
        turn.set(settled=None)
    elif kind in DETERMINISTIC and worn(turn, failures):
        if not go_back(turn, failures):
            give_up(turn, failures)
    elif is_stuck(turn, failures, detail):
        if not go_back(turn, failures):
            tell_stuck(turn, failures, detail, step)
    elif kind == FailureClass.CHECKPOINT:
        turn.set(full_verify=True, settled=None)
    if not turn.memory.verdict:
        turn.tell("waiting", f"the next attempt is in {wait:.1f} s", seconds=round(wait, 3))
    turn.wake(turn.memory.not_before)


def log_of(failures: Failures) -> dict[str, str]:
    """The last lines of the program's log as a fact, where there are any that tell."""
    return {"log": failures.log} if failures.log else {}


def progressed(turn: Turn) -> bool:
    """True where the attempt came further than any before it."""
    memory = turn.memory
    return memory.best > memory.best_before or memory.forged > memory.forged_before


def worn(turn: Turn, failures: Failures) -> bool:
    most = turn.settings.same_failures
    return failures.same >= most or failures.deterministic >= WORN_OUT * most


def times(failures: Failures) -> str:
    return f"{failures.in_a_row} times without progress, last at {failures.signature.rpartition(' step ')[2]}"


def go_back(turn: Turn, failures: Failures) -> bool:
    """Have the next attempt begin from an older checkpoint; False where there is none, or it was tried. None makes memory suffice."""
    begun_from = turn.plan.resume
    has_older = begun_from is not None and any(item.step < begun_from.step for item in turn.seen.checkpoints)
    memory_short = failures.kind == FailureClass.MEMORY
    if turn.plan.program != "trainer" or failures.older_tried or begun_from is None or not has_older or memory_short:
        return False
    reason = f"training failed after it {times(failures)}: {failures.text}"
    turn.set(
        failures=replace(failures, older_tried=True),
        quarantine=begun_from.checkpoint,
        quarantine_reason=reason,
        settled=None,
    )
    turn.tell(
        "plan_changed", f"going back to before {begun_from.checkpoint}: {reason}", checkpoint=begun_from.checkpoint
    )
    return True


def give_up(turn: Turn, failures: Failures) -> None:
    """The run has failed."""
    also = ", also from an older checkpoint" if failures.older_tried else ""
    of_memory = failures.kind == FailureClass.MEMORY and turn.plan.program == "trainer"
    also = ", computing one sample at once" if of_memory else also
    turn.set(verdict=f"{failures.text} ({times(failures)}{also})")
