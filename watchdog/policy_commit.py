"""The policy of committing: which snapshots become checkpoints, and when. Pure.

a durable snapshot is complete     it is committed: its step, a person or the interval asked for it
the interval is over               the trainer is asked for a durable snapshot
an attempt began from a slot       what is newest in memory is committed behind it, for memory does not outlive the machine; an interval
                                   after the last checkpoint at the earliest, or a trainer that dies every minute would wear the disk
"""

from adam.contract.states import Phase
from adam.watchdog.pace import checkpoint_interval_s
from adam.watchdog.policy_turn import Turn
from adam.watchdog.policy_words import AskCommit

COMMIT_AGAIN_S = 15.0
SPEAKS_FOR_ITSELF_S = 60.0  # a commit that takes no longer delays nothing that anybody would notice


def commit_if_due(turn: Turn) -> None:
    """Ask the keeper for a checkpoint, or the trainer for a snapshot to make one of."""
    interval = interval_s(turn)
    _note_trouble(turn, interval)
    pulse = turn.pulse
    trains = pulse is not None and pulse.phase == Phase.TRAINING and not turn.settings.by_steps_only
    if pulse is not None and trains:
        _ask_trainer(turn, pulse.step, interval)
    if turn.seen.keeper_idle:
        _ask_keeper_if_due(turn, interval)
    if trains:
        turn.wake(turn.memory.saved_at + interval)


def _ask_keeper_if_due(turn: Turn, interval: float) -> None:
    memory, pulse = turn.memory, turn.pulse
    again = memory.commit_failed and turn.now >= memory.commit_at
    if memory.commit_failed:
        turn.wake(memory.commit_at)
    if pulse is not None and pulse.durable != memory.durable:
        turn.set(durable=pulse.durable, owed=False)
        _ask_keeper(turn, durable_only=True)
    elif again or (memory.owed and (not memory.saved_at or turn.now >= memory.saved_at + interval)):
        turn.set(owed=False)
        _ask_keeper(turn, durable_only=False)


def _ask_keeper(turn: Turn, *, durable_only: bool) -> None:
    turn.set(commit_at=turn.now + COMMIT_AGAIN_S, saved_at=turn.now)
    turn.act(AskCommit(resumed=resumed(turn), durable_only=durable_only))


def resumed(turn: Turn) -> str:
    """The snapshot that the present attempt began from: it is ours too, though its writer had an older token."""
    plan = turn.memory.plan
    return plan.resume.checkpoint if plan is not None and plan.resume is not None and plan.resume.slot else ""


def _note_trouble(turn: Turn, interval: float) -> None:
    memory, trouble = turn.memory, turn.seen.commit_trouble
    if memory.commit_failed != bool(trouble):
        turn.set(commit_failed=bool(trouble), commit_at=turn.now + COMMIT_AGAIN_S)
    if trouble:
        turn.note(f"{trouble} (training goes on)")
    waiting = turn.now - memory.saved_at
    if not turn.seen.keeper_idle and memory.saved_at and waiting > max(SPEAKS_FOR_ITSELF_S, interval):
        turn.note(
            f"the disk is slow: a checkpoint is being written for {waiting:.0f} s, the next ones wait for it (training goes on)"
        )


def _ask_trainer(turn: Turn, step: int, interval: float) -> None:
    """Once an interval, where training has moved on since the newest checkpoint; one save at a time."""
    memory, seen = turn.memory, turn.seen
    newest = max([kept.step for kept in seen.checkpoints], default=0)
    if not memory.saved_at:
        turn.set(saved_at=turn.now)
    elif seen.keeper_idle and step > newest and turn.now >= memory.saved_at + interval:
        # A number that grows however much of the memory was lost: the trainer answers each larger one once.
        turn.set(due=max(memory.due + 1, int(turn.now)), saved_at=turn.now)


def interval_s(turn: Turn) -> float:
    settings, memory, seen = turn.settings, turn.memory, turn.seen
    return checkpoint_interval_s(
        cost_s=seen.commit_seconds,
        size=seen.commit_bytes,
        failures=memory.reboots,
        watched_s=memory.watched_s + max(0.0, turn.now - memory.began),
        bytes_per_day=settings.write_bytes_per_day,
        minutes=settings.checkpoint_minutes,
    )
