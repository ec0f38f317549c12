"""The policy where the numbers of training go wrong: end the attempt, go back to before, leave out the data that led there. Pure.

A checkpoint is *healthy* where at least `healthy_steps` good steps follow it. The newest such one is gone back to (the keeper puts away
all that is newer, on disk and in memory); where there is none, whatever is older than the trouble. The same trouble again goes back
twice as far; after `rollbacks` times the run has failed, and says what was tried. Stagnation is not mended by going back: the run is
saved and ends.
"""

import signal

from msgspec.structs import replace

from adam.contract.records import ExitReport
from adam.contract.states import FailureClass
from adam.watchdog.detect import CORRUPTION, NOT_FINITE, STAGNATION, Trouble
from adam.watchdog.policy_turn import Turn
from adam.watchdog.policy_words import LeaseSeen, Rollback, Signal

OWN_END_S = 10.0  # that a trainer has to end by itself at a number that is not finite
STRIKE_AGAIN_S = 5.0
ENDS_BY_ITSELF = {NOT_FINITE, CORRUPTION}
SAME_PLACE = 2  # times `healthy_steps`: a trouble no further behind the last one is the same


def trouble_of(turn: Turn) -> Trouble | None:
    """What is wrong with the numbers of the present attempt."""
    found = turn.memory.trouble or turn.seen.trouble
    if found is None:
        return None
    wanted = turn.settings.rollbacks > 0 and turn.plan.program == "trainer"
    return found if wanted and found.attempt == turn.plan.attempt else None


def end_if_numeric(turn: Turn, lease: LeaseSeen) -> None:
    """End an attempt whose numbers are wrong: at once, for whatever it still saves is as wrong."""
    found, memory = trouble_of(turn), turn.memory
    if found is None:
        return
    if memory.trouble is None:
        turn.set(trouble=found, trouble_due=turn.now + (OWN_END_S if found.kind in ENDS_BY_ITSELF else 0.0))
        _tell(turn, found)
    if found.kind == STAGNATION:
        if memory.stop_asked is None:
            turn.set(verdict=f"{found.text}: no better in {found.found - found.step} steps", stop_asked=turn.now)
            turn.act(Signal(lease.launcher_pid, lease.launcher_ticks, signal.SIGTERM))
        return
    if turn.now >= turn.memory.trouble_due:
        turn.set(trouble_due=turn.now + STRIKE_AGAIN_S)
        turn.act(Signal(lease.child_pid, lease.child_ticks, signal.SIGKILL, group=True))
    turn.wake(turn.memory.trouble_due)


def _tell(turn: Turn, found: Trouble) -> None:
    turn.tell("numeric", found.text, trouble=found.kind, step=found.step, found=found.found, loss=found.loss,
              usual=found.usual, first_sample=found.first_sample, end_sample=found.end_sample)  # fmt: skip


def needs_rollback(turn: Turn) -> Trouble | None:
    """The trouble of an attempt that has ended, however it ended."""
    found = trouble_of(turn)
    return found if found is not None and found.kind != STAGNATION else None


def words(found: Trouble, report: ExitReport | None) -> str:
    """For people: what was wrong, and the trainer's own word where it ended by itself."""
    last = report.tail[-1] if report is not None and report.code is not None and report.tail else ""
    return f"trainer: {found.text}" + (f" ({last})" if last and found.kind in ENDS_BY_ITSELF else "")


def roll_back(turn: Turn, found: Trouble) -> None:
    """Another plan for the next attempt, or the end."""
    memory, settings = turn.memory, turn.settings
    if memory.trouble is None:  # it had ended before anybody looked
        _tell(turn, found)
    tried, others = gone_back_for(turn, found)
    beyond = limit(turn, found, len(tried))
    steps = [kept.step for kept in turn.seen.checkpoints if kept.step <= beyond]
    # The update before is left out too, where it is done again: it may be the one that spoilt the weights.
    begin = found.before if beyond < found.step - 1 else found.first_sample
    entry = Rollback(
        text=found.text,
        found=found.found,
        beyond=beyond,
        first_sample=begin,
        end_sample=found.end_sample,
        kind=found.kind,
    )
    turn.set(
        rollbacks=(*others, *tried, entry),
        beyond=beyond,
        quarantine_reason=f"training went wrong after it: {found.text}",
        from_start=not steps,
        gone_back=True,
        settled=None,
    )
    if len(tried) + 1 >= settings.rollbacks:
        turn.set(verdict=report_of((*tried, entry)))
        return
    changes = turn.changes
    lr_factor = changes.lr_factor * settings.lr_factor
    if found.kind == CORRUPTION:
        turn.tell("plan_changed", f"going back to step {beyond} or before; no data are to blame", beyond=beyond)
        return
    skip = merged((*changes.skip, (begin, found.end_sample)))
    turn.set(changes=replace(changes, skip=skip, lr_factor=lr_factor))
    slower = f", at {lr_factor:g} of the learning rate" if settings.lr_factor < 1 else ""
    text = f"going back to step {beyond} or before; the data at {begin} to {found.end_sample - 1} are left out{slower}"
    turn.tell("plan_changed", text, beyond=beyond, skip_from=begin, skip_to=found.end_sample, lr_factor=lr_factor)


def gone_back_for(turn: Turn, found: Trouble) -> tuple[tuple[Rollback, ...], tuple[Rollback, ...]]:
    """(The rollbacks for the same trouble, those for trouble of the other nature): numbers, and a chip that computes wrong.

    Numbers are the same trouble where training has not gone on well for long since; a chip computes wrong at any place.
    """
    past, chip = turn.memory.rollbacks, found.kind == CORRUPTION
    same = tuple(item for item in past if (item.kind == CORRUPTION) == chip)
    others = tuple(item for item in past if (item.kind == CORRUPTION) != chip)
    again = chip or (same and found.step <= same[-1].found + SAME_PLACE * turn.settings.healthy_steps)
    return (same if again else ()), others


def limit(turn: Turn, found: Trouble, tried: int) -> int:
    """The newest step that may be gone back to: one of a healthy checkpoint, where there is one."""
    last_good, healthy = found.step - 1, turn.settings.healthy_steps
    if found.kind == CORRUPTION:
        # Where none is as old as that, the oldest there is: better than to begin again.
        return max(last_good, min((kept.step for kept in turn.seen.checkpoints), default=0))
    for distance in (healthy * 2**tried, healthy):
        if any(kept.step <= last_good - distance for kept in turn.seen.checkpoints):
            return last_good - distance
    return last_good


def report_of(past: tuple[Rollback, ...]) -> str:
    """What went wrong each time, and what was done about it."""
    if past[-1].kind == CORRUPTION:
        return f"the chip computed wrong {len(past)} times: " + "; ".join(item.text for item in past)
    tried = [
        f"{item.text}; then from step {item.beyond} or before without the data at {item.first_sample} to {item.end_sample - 1}"
        for item in past[:-1]
    ]
    return f"numeric trouble {len(past)} times at the same place: " + "; ".join([*tried, past[-1].text])


def merged(ranges: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """The same positions as plain ranges in order, none touching the next."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return tuple(found)


def failure_of(found: Trouble) -> tuple[FailureClass, str]:
    return FailureClass.NUMERIC, found.kind
