"""The policy while a program is being started or runs: listen, commit, stop, and end what hangs. Pure."""

import signal

from adam.contract.records import ExitReport
from adam.contract.states import FailureClass
from adam.watchdog.policy_commit import commit_if_due
from adam.watchdog.policy_failures import fail, finish
from adam.watchdog.policy_gpu import stand_by, went_on
from adam.watchdog.policy_idle import adopt
from adam.watchdog.policy_log import note_log
from adam.watchdog.policy_numeric import end_if_numeric, needs_rollback, trouble_of
from adam.watchdog.policy_pulse import LONGEST_TICK_S, deadline_s, left_s, listen
from adam.watchdog.policy_stuck import tell_unlaunched
from adam.watchdog.policy_turn import Turn
from adam.watchdog.policy_words import Collect, Hang, Launch, LeaseSeen, Signal, Stage, Sweep

ASK_AGAIN_S = 5.0  # a full disk lasts for hours, and a supervisord that does not answer holds the loop up for each call
LAUNCHING_S = 5.0  # after which supervisord is asked what became of the launcher
GONE = {"EXITED", "FATAL", "STOPPED", "BACKOFF"}
SOON_S, SOON_TICK_S = 1.0, 0.02  # a launcher mostly reports within milliseconds
REPORT_S = 10.0  # that a launcher has to tell how its program ended
# What is done to a program that hangs, and how many seconds after it was noticed: its stacks, a request, the end, and again.
BLOWS = ((0.0, signal.SIGUSR1), (1.0, signal.SIGTERM), (4.0, signal.SIGKILL))
CALLED_OFF = (
    1  # blows after which a program that moves again is still left alone: it has only been asked where it stands
)
COLLECT_S = 6.0  # that the blows after the first wait for a bundle which is being made
SWEEP_AFTER_S = 14.0
SWEEP_EVERY_S = 10.0


def report_of(turn: Turn) -> ExitReport | None:
    """The report on the end of the present attempt, where there is one."""
    report = turn.seen.exit
    return report if report is not None and report.token == turn.plan.token else None


def starting(turn: Turn) -> None:
    """Until the launcher has the lease, or it is sure that it will not come."""
    memory, lease = turn.memory, turn.seen.lease
    waited = turn.now - memory.since
    if report_of(turn) is not None and turn.holder is None:
        hear(turn)
        finish(turn, report_of(turn))
    elif lease is not None and lease.launcher_alive and lease.token >= turn.plan.token:
        run_or_adopt(turn, lease)
    elif turn.seen.launch_error:
        ask_again(turn)
        return
    elif waited > LAUNCHING_S and lease is not None and lease.waiting_pid:
        # It stands still, or the watchdog before this one died before it had written the plan: supervisord starts another.
        turn.act(Signal(lease.waiting_pid, lease.waiting_ticks, signal.SIGKILL))
        never_seen(
            turn, "launcher", f"the launcher that waited for {turn.plan.program} did not take its plan up and is killed"
        )
    elif waited > LAUNCHING_S and turn.seen.program_state in GONE:
        never_seen(turn, "launcher", f"the launcher of {turn.plan.program} ended before it had the lease")
    elif waited > turn.settings.start_seconds:
        turn.act(Sweep(turn.plan.token))
        never_seen(turn, "launch", f"{turn.plan.program} was not launched in {waited:.0f} s")
    turn.wake(turn.now + LONGEST_TICK_S)


def never_seen(turn: Turn, detail: str, text: str) -> None:
    """Nobody was seen with the lease. What has left wrong numbers ran all the same, while no watchdog looked, and died untold."""
    if needs_rollback(turn) is not None:
        finish(turn, None)
        return
    turn.enter(Stage.IDLE, settled=None, asked=0.0)
    fail(turn, FailureClass.HOST, detail, text)


def ask_again(turn: Turn) -> None:
    """The plan could not be written, or supervisord refused or did not answer: nothing has started, as far as is known."""
    turn.note(turn.seen.launch_error)
    tell_unlaunched(turn)
    if not turn.wanted:
        turn.enter(Stage.IDLE, settled=None, asked=0.0)
    elif turn.now - turn.memory.asked >= ASK_AGAIN_S:
        turn.set(asked=turn.now)
        turn.act(Launch(turn.plan))
    turn.wake(turn.memory.asked + ASK_AGAIN_S)


def run_or_adopt(turn: Turn, lease: LeaseSeen) -> None:
    if lease.token == turn.plan.token:
        turn.enter(Stage.RUNNING)
    else:
        adopt(turn, lease)


def running(turn: Turn) -> None:
    """Listen to the program, and do what is due."""
    lease = turn.seen.lease
    hear(turn)
    if lease is not None and lease.launcher_alive and lease.token != turn.plan.token:
        adopt(turn, lease)
    elif lease is None or not lease.launcher_alive:
        without_launcher(turn, lease)
    else:
        if lease.child_pid and not lease.child_alive:
            await_report(turn, lease)
        elif lease.child_pid:
            end_if_numeric(turn, lease)
            stop_if_asked(turn, lease)
            end_if_hung(turn, lease)
        if trouble_of(turn) is None:  # what is saved now is as wrong
            commit_if_due(turn)
        if trouble_of(turn) is not None or not goes_well(turn, lease):
            turn.wake(turn.now + LONGEST_TICK_S)


def goes_well(turn: Turn, lease: LeaseSeen) -> bool:
    """It has moved since the last look, and nothing else is under way: as long as that is so, only the next checkpoint has a time."""
    memory = turn.memory
    heard = memory.listening.trained and memory.listening.quiet_s == 0.0
    return heard and lease.child_alive and memory.stop_asked is None and memory.hang is None


def hear(turn: Turn) -> None:
    """Take the pulse: progress, quiet time, and how far the run has ever come."""
    pulse, memory = turn.pulse, turn.memory
    beaten = memory.hang is not None and memory.hang.sent > CALLED_OFF
    first_step = turn.plan.resume.step if turn.plan.resume else 0
    listening = listen(memory.listening, pulse, turn.now, first_step=first_step, beaten=beaten)
    if pulse is None:
        turn.set(listening=listening)
    elif turn.plan.program == "trainer":
        turn.set(listening=listening, best=max(memory.best, pulse.step), sound=pulse.sound or memory.sound)
        note_log(turn)
    else:
        turn.set(listening=listening, forged=max(memory.forged, (pulse.phase << 48) + pulse.done))
    went_on(turn)


def without_launcher(turn: Turn, lease: LeaseSeen | None) -> None:
    """The launcher is dead: the attempt is over as soon as nobody has the lease any more."""
    if lease is None or not lease.held:
        finish(turn, report_of(turn))
        return
    gone = turn.now if turn.memory.child_gone is None else turn.memory.child_gone
    turn.set(child_gone=gone)
    turn.note(f"the launcher is dead, but {turn.plan.program} or a child of it still holds the lease")
    if turn.now - gone > REPORT_S and turn.now - turn.memory.asked > SWEEP_EVERY_S:
        turn.set(asked=turn.now)
        turn.act(Sweep(lease.token))
    turn.wake(turn.now + LONGEST_TICK_S)


def await_report(turn: Turn, lease: LeaseSeen) -> None:
    """The program has ended and its launcher has not: it is writing the report, or stands on a disk that does not answer."""
    gone = turn.now if turn.memory.child_gone is None else turn.memory.child_gone
    turn.set(child_gone=gone)
    if turn.now - gone < SOON_S:  # no event says that the report is there where the launcher stays
        turn.wake(turn.now + SOON_TICK_S)
    if turn.now - gone > REPORT_S and turn.now - turn.memory.asked > REPORT_S:
        turn.set(asked=turn.now, untold=True)
        turn.act(Signal(lease.launcher_pid, lease.launcher_ticks, signal.SIGKILL))


def stop_if_asked(turn: Turn, lease: LeaseSeen) -> None:
    """Ask once, by control word and by SIGTERM through the launcher; at the deadline, kill."""
    memory = turn.memory
    if turn.wanted and memory.stop_asked is None:
        return
    if memory.stop_asked is None:
        turn.set(stop_asked=turn.now)
        turn.tell("signalled", f"{turn.plan.program} is asked to stop", signal="SIGTERM", pid=lease.child_pid)
        turn.act(Signal(lease.launcher_pid, lease.launcher_ticks, signal.SIGTERM))
    elif not memory.stop_killed and turn.now - memory.stop_asked > turn.settings.stop_seconds:
        turn.set(stop_killed=True)
        turn.tell(
            "signalled",
            f"{turn.plan.program} did not stop in {turn.settings.stop_seconds:g} s and is killed",
            signal="SIGKILL",
            pid=lease.child_pid,
        )
        turn.act(Signal(lease.child_pid, lease.child_ticks, signal.SIGKILL, group=True))


def end_if_hung(turn: Turn, lease: LeaseSeen) -> None:
    """Notice a hang and end the program by blows of growing force; a sign of life before the second one calls it off."""
    memory = turn.memory
    if memory.hang is None:
        if left_s(turn.settings, memory.listening, turn.seen.child_letter) > 0:
            return
        turn.set(hang=Hang(turn.now, 0, memory.listening.progress))
        tell_hang(turn, lease)
    elif memory.hang.sent <= CALLED_OFF and memory.listening.progress != memory.hang.progress:
        turn.set(hang=None)
        turn.tell("resumed", f"{turn.plan.program} moves again and is left alone")
        return
    strike(turn, lease)


def strike(turn: Turn, lease: LeaseSeen) -> None:
    hang = turn.memory.hang
    if hang is None:
        return
    collecting = turn.seen.collecting and turn.now - hang.since < COLLECT_S
    while hang.sent < len(BLOWS) and not (collecting and hang.sent) and turn.now - hang.since >= BLOWS[hang.sent][0]:
        number = BLOWS[hang.sent][1]
        turn.act(Signal(lease.child_pid, lease.child_ticks, number, group=number == signal.SIGKILL))
        hang = Hang(hang.since, hang.sent + 1, hang.progress)
    if hang.sent < len(BLOWS):
        turn.wake(turn.now + LONGEST_TICK_S if collecting else hang.since + BLOWS[hang.sent][0])
    elif turn.now - hang.since > SWEEP_AFTER_S:
        turn.note(
            f"{turn.plan.program} does not die (process state {turn.seen.child_letter or '?'}): the machine may need a restart"
        )
        stand_by(turn)
        if turn.now - turn.memory.asked > SWEEP_EVERY_S:
            turn.set(asked=turn.now)
            turn.act(Sweep(turn.plan.token))
    turn.set(hang=hang)


def tell_hang(turn: Turn, lease: LeaseSeen) -> None:
    past, pulse = turn.memory.listening, turn.pulse
    quiet = past.quiet_s if past.trained else max(past.quiet_s, past.unborn_s)
    step = pulse.step if pulse else 0
    bundle = f"hang-{turn.plan.attempt}-{step}"
    turn.act(
        Collect(bundle, lease.child_pid, lease.token)
    )  # before the first blow: it looks where the stacks will begin
    turn.tell(
        "hung",
        f"{turn.plan.program} has made no progress for {quiet:.1f} s at step {step} "
        f"(process state {turn.seen.child_letter or '?'})",
        step=step,
        micro_step=pulse.micro_step if pulse else 0,
        phase=past.phase,
        quiet_s=round(quiet, 3),
        deadline_s=round(deadline_s(turn.settings, past), 3),
        process_state=turn.seen.child_letter,
        pid=lease.child_pid,
        bundle=f"logs/{bundle}",
    )
