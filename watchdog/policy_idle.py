"""The policy between two attempts: settle, wait, choose what is next, and the states in which a run ends. Pure."""

from msgspec.structs import replace

from adam.contract.records import Plan, Resume, SnapshotSeen
from adam.contract.states import FailureClass, RunState
from adam.watchdog.pace import death_interval_s
from adam.watchdog.policy_commit import resumed
from adam.watchdog.policy_failures import fail, log_of
from adam.watchdog.policy_gpu import stands_still
from adam.watchdog.policy_turn import Turn
from adam.watchdog.policy_words import (
    AskSettle,
    Failures,
    Launch,
    LeaseSeen,
    Listening,
    Settled,
    Shutdown,
    Stage,
    Sweep,
    resume_of,
)

ASK_AGAIN_S = 5.0
STRANGER_S = 10.0  # patience with a lease that is held by somebody who is not the launcher it names


def idle(turn: Turn) -> None:
    """Nothing of ours runs: what is next?"""
    if turn.holder is not None:
        meet_holder(turn, turn.holder)
    elif turn.memory.settled is None:
        turn.enter(Stage.SETTLING, settle_id=turn.memory.settle_id + 1, asked=0.0)
    elif turn.memory.settled.snapshot is not None and ends_here(turn, turn.memory.settled.snapshot):
        turn.set(commit_all=True, settled=None)
    elif not turn.seen.wish_known:
        turn.wake(turn.now + ASK_AGAIN_S)
    elif not turn.wanted:
        end(turn, RunState.STOPPED, "stopped because it was asked for")
    elif turn.memory.verdict:
        end(turn, RunState.FAILED, turn.memory.verdict)
    elif turn.now < turn.memory.not_before:
        turn.wake(turn.memory.not_before)
    else:
        choose(turn, turn.memory.settled)


def ends_here(turn: Turn, snapshot: SnapshotSeen) -> bool:
    """True where no attempt will begin from this snapshot: it must be on disk before the run ends."""
    over = not turn.wanted or bool(turn.memory.verdict) or snapshot.step >= turn.settings.steps
    # The forge's lease makes a stranger of it; what keeps GPUs away mostly ends by a reboot.
    return over or not turn.seen.data_ready or stands_still(turn)


def meet_holder(turn: Turn, lease: LeaseSeen) -> None:
    """Somebody holds the lease while we thought that nothing runs: take over a living program, never start a twin."""
    if lease.launcher_alive:
        adopt(turn, lease)
        return
    turn.note("the lease is held by a process that is not the launcher it names; waiting until it is gone")
    turn.wake(turn.now + ASK_AGAIN_S)
    if turn.now - turn.memory.since > STRANGER_S and turn.now - turn.memory.asked > ASK_AGAIN_S:
        turn.set(asked=turn.now)
        turn.act(Sweep(lease.token))


def adopt(turn: Turn, lease: LeaseSeen) -> None:
    """Go on with an attempt that somebody else (a watchdog before this one) has started."""
    plan = turn.memory.plan
    if plan is None or plan.token != lease.token:
        plan = Plan(program=lease.program, attempt=lease.attempt, token=lease.token, why="found running")
    turn.enter(
        Stage.RUNNING, plan=plan, listening=Listening(tick=turn.now, learnt=turn.memory.listening.learnt), **FRESH
    )
    turn.tell("started", f"{lease.program} was found running and is taken over", pid=lease.child_pid, adopted=True)


# What an attempt starts without.
FRESH = {
    "unlaunched_told": False,
    "stop_asked": None,
    "stop_killed": False,
    "child_gone": None,
    "untold": False,
    "hang": None,
    "durable": 0,
    "due": 0,
    "commit_at": 0.0,
    "commit_failed": False,
    "settled": None,
    "ended_well": False,
    "trouble": None,
    "from_start": False,
    "gone_back": False,
}


def settling(turn: Turn) -> None:
    """Ask the keeper until it has answered this very question. A keeper that died is asked again when there is a new one."""
    memory, answer = turn.memory, turn.seen.settled
    if memory.settle_trouble:
        turn.note(memory.settle_trouble)
    if turn.holder is not None:
        turn.enter(Stage.IDLE)
    elif answer is not None and answer.id == memory.settle_id:
        take_answer(turn, answer)
    elif not turn.wanted and turn.now - memory.since > turn.settings.stop_seconds:
        # A disk that hangs must not keep `down` from ending.
        end(turn, RunState.STOPPED, "stopped because it was asked for, though the keeper had not answered")
    elif turn.seen.keeper_idle and turn.now - memory.asked > ASK_AGAIN_S:
        turn.set(asked=turn.now)
        turn.act(
            AskSettle(
                memory.settle_id,
                memory.plan.token if memory.plan else turn.seen.highest_token,
                resumed(turn),
                # Memory is for an attempt that follows at once.
                memory.commit_all or not memory.crashed or not turn.wanted,
                memory.full_verify,
                memory.quarantine,
                memory.quarantine_reason,
                memory.beyond,
            )
        )
    turn.wake(turn.now + ASK_AGAIN_S)


def take_answer(turn: Turn, answer: Settled) -> None:
    """Go on with what the keeper found; where the disk did not take what a dead attempt left, wait: nothing is lost so."""
    turn.set(settle_trouble=answer.trouble)
    if answer.trouble and turn.wanted:
        if turn.now - turn.memory.asked > ASK_AGAIN_S:
            turn.set(settle_id=turn.memory.settle_id + 1, asked=0.0)
        return
    if answer.refused:
        turn.set(verdict=answer.refused)
    done_with = {"quarantine": "", "quarantine_reason": "", "beyond": -1, "full_verify": False, "commit_all": False}
    turn.enter(Stage.IDLE, settled=answer, **done_with)


def choose(turn: Turn, settled: Settled) -> None:
    """Finished, failed, or the next attempt of forge or trainer."""
    resume, memory = resume_of(settled), turn.memory
    if resume is not None and resume.step >= turn.settings.steps:
        end(turn, RunState.FINISHED, f"{resume.step} steps trained")
    elif memory.ended_well:
        step = resume.step if resume else 0
        turn.set(ended_well=False)
        fail(turn, FailureClass.CODE, "short", f"the trainer ended at step {step} of {turn.settings.steps} by itself")
    elif resume is None and settled.in_quarantine and not memory.from_start:
        end(
            turn,
            RunState.FAILED,
            f"no checkpoint verifies ({settled.in_quarantine} in checkpoints/quarantine); "
            "put one back, or delete that directory to start from step 0",
        )
    elif not turn.seen.data_ready:
        launch(turn, "forge", None, "the data are not ready")
    elif not stands_still(turn):
        launch(turn, "trainer", resume, begins(resume) + differs(turn))


def begins(resume: Resume | None) -> str:
    if resume is None:
        return "from the beginning"
    return f"from {resume.checkpoint}" + (" in memory" if resume.slot else "")


def differs(turn: Turn) -> str:
    """In which ways this run no longer is as configured."""
    changes, parts = turn.changes, []
    if changes.skip:
        parts.append("without the data at " + ", ".join(f"{start} to {end - 1}" for start, end in changes.skip))
    if turn.micro_batch:
        parts.append(f"{turn.micro_batch} samples at once")
    if changes.lr_factor != 1.0:
        parts.append(f"at {changes.lr_factor:g} of the learning rate")
    return "".join(f"; {part}" for part in parts)


def launch(turn: Turn, program: str, resume: Resume | None, why: str) -> None:
    memory, seen = turn.memory, turn.seen
    best = (resume.step if resume else 0) if memory.gone_back else memory.best
    last_token, last_attempt = (memory.plan.token, memory.plan.attempt) if memory.plan else (0, 0)
    plan = Plan(
        program=program,
        attempt=max(last_attempt, seen.highest_attempt) + 1,
        token=max(last_token, seen.highest_token) + 1,
        resume=resume,
        skip=turn.changes.skip,
        micro_batch=turn.micro_batch,
        lr_factor=turn.changes.lr_factor,
        sound=min(memory.sound, resume.step) if resume else 0,
        fresh=memory.crashed and memory.doubtful,
        death_interval_s=round(death_interval_s(memory.deaths, turn.now), 1),
        why=why,
    )
    turn.enter(
        Stage.STARTING,
        plan=plan,
        asked=turn.now,
        restarts=memory.restarts + int(memory.crashed),
        crashed=False,
        best=best,
        best_before=best,
        sound=plan.sound,
        forged_before=memory.forged,
        listening=Listening(tick=turn.now, learnt=memory.listening.learnt),
        **FRESH,
    )
    turn.set(owed=resume is not None and bool(resume.slot))
    turn.act(Launch(plan))
    turn.tell(
        "started",
        f"{program} is started: {why}",
        program=program,
        attempt=plan.attempt,
        token=plan.token,
        step=resume.step if resume else 0,
    )


def end(turn: Turn, final: RunState, reason: str) -> None:
    """Nothing is left to do until people want something else."""
    turn.enter(Stage.DONE, final=final, verdict=reason, decided_for=turn.wish_stamp, asked=turn.now, closing=False)
    failures = turn.memory.failures
    turn.tell(final.value, reason, **(log_of(failures) if reason.startswith(failures.text) else {}))
    close(turn)


def close(turn: Turn) -> None:
    """Have supervisord end; where the run is finished, behind the upload of its last checkpoint, as long as people want it so."""
    if turn.memory.final == RunState.FINISHED and turn.wanted and turn.seen.upload_pending:
        turn.note("the last checkpoint is being uploaded; `adamctl down` ends the run without")
        return
    turn.set(closing=True, asked=turn.now)
    turn.act(Shutdown())


def done(turn: Turn) -> None:
    """A final state: left by a new wish; a run that was stopped goes on whenever it is wanted."""
    memory = turn.memory
    new_wish = turn.seen.wish_known and (memory.final == RunState.STOPPED or turn.wish_stamp != memory.decided_for)
    if turn.wanted and new_wish:
        turn.enter(Stage.IDLE, final=None, verdict="", failures=replace(Failures()), not_before=0.0, settled=None)
        turn.set(ended_well=False, rollbacks=(), gpu=None)
    elif not memory.closing or (turn.seen.launch_error and turn.now - memory.asked > ASK_AGAIN_S):
        close(turn)
