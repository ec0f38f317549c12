"""The policy: whether, when and from what to start, pause, stop and end. A pure function of what was seen and the time.

                 ┌──────────────────────────────────────────────────────────┐
    IDLE ──> SETTLING ──> IDLE ──> STARTING ──> RUNNING ──(ended)──> IDLE ──┘
      └──> DONE (stopped, finished, failed) ──(a new wish)──> IDLE

`decide` reads no clock and no file and draws no random number: a seed replays a run, and years are simulated in seconds.
"""

from collections.abc import Callable

from msgspec.structs import replace

from adam.contract.shared import Control
from adam.contract.states import Phase, RunState
from adam.watchdog.policy_heat import feel, pause_words, pauses_of
from adam.watchdog.policy_idle import done, idle, settling
from adam.watchdog.policy_running import running, starting
from adam.watchdog.policy_stuck import note_stuck
from adam.watchdog.policy_turn import Turn
from adam.watchdog.policy_words import Decision, Listening, Memory, Observation, Settings, Stage

RESTING_S = 60.0  # between two decisions where nothing is under way
UNKNOWN_WISH = (
    "what is wanted can't be read, and nothing is started before it can: `adamctl up` or `adamctl down` says it anew"
)

STEPS: dict[Stage, Callable[[Turn], None]] = {
    Stage.IDLE: idle,
    Stage.SETTLING: settling,
    Stage.STARTING: starting,
    Stage.RUNNING: running,
    Stage.DONE: done,
}


def decide(settings: Settings, memory: Memory, seen: Observation, now: float) -> Decision:
    """What to do at `now` (seconds of CLOCK_BOOTTIME), and what to remember."""
    turn = Turn(settings, memory if memory.began else replace(memory, began=now), seen, now)
    feel(turn)
    for _ in range(2 * len(STEPS)):
        stage = turn.memory.stage
        STEPS[stage](turn)
        if turn.memory.stage == stage:
            break
    note_stuck(turn)
    state, reason = describe(turn)
    tell_pauses(turn, state)
    return Decision(
        memory=turn.memory,
        actions=tuple(turn.actions),
        control=control(turn),
        state=state,
        reason=reason,
        notes=tuple(turn.notes),
        wake_at=min([at for at in turn.alarms if at > now], default=now + RESTING_S),
    )


def restored(memory: Memory, now: float, *, same_boot: bool) -> Memory:
    """What a new watchdog process takes over from the last one: what may have changed meanwhile is asked again.

    After a reboot the times of the old boot mean nothing.
    """
    # What the keeper was asked for died with it: it is asked again, and finds by itself what is on disk already.
    began_in_memory = memory.plan is not None and memory.plan.resume is not None and bool(memory.plan.resume.slot)
    watched_s = memory.watched_s + max(0.0, memory.listening.tick - memory.began)
    memory = replace(memory, settled=None, durable=-1, owed=memory.owed or began_in_memory)
    memory = replace(memory, listening=replace(memory.listening, tick=now, quiet_s=0.0))
    if memory.stage == Stage.SETTLING:
        memory = replace(memory, stage=Stage.IDLE)
    if same_boot:
        return memory
    return replace(
        memory,
        since=now,
        failures=replace(memory.failures, told=None if memory.failures.told is None else now),
        not_before=now,
        asked=now,
        commit_at=now,
        saved_at=0.0,
        reboots=memory.reboots + 1,
        watched_s=watched_s,
        began=now,
        hang=None,
        hot=(),
        deaths=(),
        gpu=None,
        child_gone=None,
        stop_asked=now if memory.stop_asked is not None else None,
        listening=Listening(learnt=memory.listening.learnt, tick=now),
    )


def control(turn: Turn) -> Control:
    """The control word for the present attempt."""
    memory, desired = turn.memory, turn.seen.desired
    if memory.plan is None:
        return Control()
    return Control(
        token=memory.plan.token,
        pause=int(bool(pauses_of(turn))),
        # A request that a verified checkpoint answers must not be answered again by the next attempt.
        saves=desired.saves if desired.saves > turn.seen.saves_done else 0,
        due=memory.due,
        stop=int(memory.stop_asked is not None),
        committed=max([kept.step for kept in turn.seen.checkpoints if kept.attempt == memory.plan.attempt], default=0),
    )


def describe(turn: Turn) -> tuple[RunState, str]:
    """The state of the run and the reason, for people."""
    memory = turn.memory
    match memory.stage:
        case Stage.DONE:
            return memory.final or RunState.FAILED, memory.verdict
        case Stage.STARTING | Stage.RUNNING:
            return _describe_program(turn)
    waits_for = (memory.gpu.text if memory.gpu is not None else "") if turn.seen.wish_known else UNKNOWN_WISH
    if waits_for:
        return RunState.WAITING, waits_for
    if memory.plan is None:
        return RunState.STARTING, "looking at what there is"
    if memory.failures.in_a_row:
        return RunState.RESTARTING, memory.failures.text
    return RunState.RESTARTING, "settling what the last attempt left"


def _describe_program(turn: Turn) -> tuple[RunState, str]:
    memory = turn.memory
    if memory.hang is not None:
        return RunState.RESTARTING, f"{turn.plan.program} hangs and is being ended"
    if memory.trouble is not None:
        return RunState.RESTARTING, f"{memory.trouble.text}: the attempt is being ended"
    stopping = "asked to stop" if memory.stop_asked is not None else ""
    if turn.plan.program == "forge":
        return RunState.FORGING, stopping or turn.plan.why
    saves_in_pause = memory.listening.phase == Phase.SAVING and memory.paused and pauses_of(turn)
    if memory.listening.phase == Phase.PAUSED or saves_in_pause:
        return RunState.PAUSED, stopping or pause_words(turn)
    if not memory.listening.trained:
        return RunState.STARTING, stopping or turn.plan.why
    doing = Phase(memory.listening.phase).name.lower()
    return RunState.TRAINING, stopping or ("" if doing == "training" else doing)


def tell_pauses(turn: Turn, state: RunState) -> None:
    """Events where training has truly come to rest, and where it truly goes on."""
    memory, pauses = turn.memory, pauses_of(turn)
    if state == RunState.PAUSED and not memory.paused:
        turn.set(paused=True, pauses=pauses)
        turn.tell("paused", f"training is {pause_words(turn)}", by=", ".join(pauses))
    elif state == RunState.TRAINING and memory.paused:
        turn.set(paused=False, pauses=())
        turn.tell("resumed", f"training goes on, no longer paused by {', '.join(memory.pauses)}")
