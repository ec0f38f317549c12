"""Between supervisord and a program: takes the lease, starts the program, and tells truly how it ended.

    python -P -m adam.watchdog.launcher --run DIR trainer|forge [-- COMMAND …]

supervisord alone reports -1 for every signal and knows neither core, nor memory, nor the last words. COMMAND replaces the
program's own command line (tests; torchrun). This process stays single-threaded and small; it exits 0 when the program has
ended, however that was, and with a code of its own only where nothing was started.
"""

import argparse
import functools
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

import msgspec

from adam.contract import schema
from adam.contract.clock import Stamp, boottime_ns, stamp
from adam.contract.errors import DISK_ERRNOS, UsageError, run_main
from adam.contract.lease import take_lease, write_lease
from adam.contract.notify import notify
from adam.contract.output import LAST_WORDS, memory_for_last_words, never_fail, read_last_words
from adam.contract.paths import RunPaths
from adam.contract.process import die_with_parent, start_ticks
from adam.contract.records import ExitReport, Lease, Plan
from adam.contract.reserve import make_reserve
from adam.contract.states import Exit
from adam.watchdog.beat import read_beat
from adam.watchdog.child_log import ChildLog
from adam.watchdog.oom import oom_kills, was_oom_killed
from adam.watchdog.parent import supervisor_pid

CHECK_S = 5.0  # between two looks at the watchdog's beat
FROZEN_S = 30.0  # a watchdog that lives and has not beaten for so long is replaced
WRITE_AGAIN_S = 0.5
COULD_NOT_START = 127  # as shells report it

PROGRAMS = {
    "trainer": (sys.executable, "-P", "-m", "adam.trainer"),
    "forge": (sys.executable, "-P", "-m", "adam.forge", "--leased"),
}


def command_of(program: str, paths: RunPaths, override: list[str]) -> list[str]:
    """The command line that is started for `program`."""
    return [*(override or PROGRAMS[program]), "--run", str(paths.root)]


def read_plan(paths: RunPaths, program: str) -> Plan:
    """The plan that this launcher is to carry out. Raises UsageError where there is none, or one for another program."""
    plan = schema.load(paths.plan, Plan)
    if plan is None:
        raise UsageError(f"{paths.plan} is missing", "start the run with `adamctl up`; the watchdog writes the plan")
    if plan.program != program:
        raise UsageError(f"{paths.plan} is for {plan.program}, not for {program}")
    return plan


class Relay:
    """Passes SIGTERM and SIGINT on to the program; one that comes before the program is there waits for it."""

    def __init__(self) -> None:
        self._child, self._waiting = 0, 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._child:
            os.kill(self._child, number)
        else:
            self._waiting = number

    def to(self, child: int) -> None:
        """From now on to `child`, which must not be reaped before `stop`."""
        self._child = child
        if self._waiting:
            os.kill(child, self._waiting)

    def stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)


def spawn(command: list[str], plan: Plan, lease_fd: int, log_fd: int, words_fd: int) -> subprocess.Popen[bytes]:
    """Start the program in a process group of its own, to die with this process. Raises OSError."""
    environment = {
        **os.environ,
        LAST_WORDS: str(words_fd),
        "ADAM_ATTEMPT": str(plan.attempt),
        "ADAM_TOKEN": str(plan.token),
        "PYTHONSAFEPATH": "1",
    }
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log_fd,
        stderr=log_fd,
        env=environment,
        pass_fds=(lease_fd, words_fd),
        process_group=0,
        preexec_fn=functools.partial(die_with_parent, os.getpid()),  # noqa: PLW1509 - this process has one thread
    )


class FrozenWatchdog:
    """Finds a watchdog that lives and does nothing, and kills it so that supervisord starts another."""

    def __init__(self, paths: RunPaths) -> None:
        self._path = paths.beat
        self._last_look = boottime_ns()

    def look(self) -> None:
        """Called every CHECK_S. Where this process itself was not woken in time, the machine slept: look again later."""
        now = boottime_ns()
        overslept = now - self._last_look > 2 * CHECK_S * 1e9
        self._last_look = now
        beat = read_beat(self._path)
        if beat is None or overslept or not beat.replaced or beat.silent_s() < FROZEN_S:
            return
        print(f"launcher: the watchdog {beat.pid} has not beaten for {beat.silent_s():.0f} s: killed", file=sys.stderr)
        os.kill(beat.pid, signal.SIGKILL)


def wait_for(child: int, frozen: FrozenWatchdog) -> None:
    """Until `child` has ended (it is not reaped), with few wake-ups."""
    pidfd = os.pidfd_open(child)
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    while not poller.poll(CHECK_S * 1000):
        frozen.look()
    os.close(pidfd)


def end_group(child: int) -> None:
    """Kill what is left of the program's process group; `child` is not reaped yet, so the group's number is still its own."""
    try:
        os.killpg(child, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # nobody left


def report(
    plan: Plan, process: subprocess.Popen[bytes], tail: tuple[str, ...], started: Stamp, kills_before: int | None
) -> ExitReport:
    """Reap the program and say how it ended."""
    child = process.pid
    _, status, usage = os.wait4(child, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    signalled = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    return ExitReport(
        program=plan.program,
        attempt=plan.attempt,
        token=plan.token,
        pid=child,
        code=os.WEXITSTATUS(status) if signalled is None else None,
        signal=signalled,
        core=signalled is not None and os.WCOREDUMP(status),
        oom_killed=signalled == signal.SIGKILL and was_oom_killed(child, kills_before),
        max_rss_bytes=usage.ru_maxrss * 1024,
        cpu_s=usage.ru_utime + usage.ru_stime,
        started=started,
        ended=stamp(),
        tail=tail,
    )


def tail_of(log: ChildLog, words_fd: int) -> tuple[str, ...]:
    """The last lines of the log; behind them the program's last words, where the log did not take them."""
    tail, words = log.tail(), read_last_words(words_fd)
    return tail if not words or words in tail else (*tail, words)


def write_report(path: Path, told: ExitReport) -> None:
    """Nobody else knows how the program ended: tried until the disk takes it, or the watchdog, which waits for it, ends this process."""
    while True:
        try:
            schema.save_reserved(path, told)
            return
        except OSError as error:
            print(f"launcher: {path} can't be written, it is tried again: {error.strerror}", file=sys.stderr)
        time.sleep(WRITE_AGAIN_S)


def never_started(plan: Plan, error: OSError, started: Stamp) -> ExitReport:
    return ExitReport(
        program=plan.program,
        attempt=plan.attempt,
        token=plan.token,
        pid=0,
        code=Exit.DISK if error.errno in DISK_ERRNOS else COULD_NOT_START,
        signal=None,
        core=False,
        oom_killed=False,
        max_rss_bytes=0,
        cpu_s=0.0,
        started=started,
        ended=stamp(),
        tail=(f"the program could not be started: {error.strerror} ({error.filename})",),
    )


def launch(paths: RunPaths, program: str, override: list[str]) -> int:
    """Carry out the plan for `program`. Raises UsageError (no such plan), BusyError (the lease is held)."""
    relay = Relay()
    plan = read_plan(paths, program)
    lease_fd, lease = take_lease(paths, plan.program, plan.token, plan.attempt)
    make_reserve(paths.exit_report(program))
    log, words_fd = ChildLog(paths.log(program)), memory_for_last_words()
    kills_before, started = oom_kills(), stamp()
    try:
        process = spawn(command_of(program, paths, override), plan, lease_fd, log.fd, words_fd)
    except OSError as error:
        write_report(paths.exit_report(program), never_started(plan, error, started))
        return 0
    child = process.pid
    trouble = name_child(paths, lease_fd, lease, child)
    if not trouble:  # else nobody could stop it, or see it hang: it is ended at once
        relay.to(child)
        notify("READY=1")
        wait_for(child, FrozenWatchdog(paths))
    relay.stop()
    end_group(child)
    told = report(plan, process, tail_of(log, words_fd), started, kills_before)
    if trouble:
        told = msgspec.structs.replace(told, code=int(Exit.DISK), signal=None, tail=(trouble,))
    write_report(paths.exit_report(program), told)
    return 0


def name_child(paths: RunPaths, lease_fd: int, lease: Lease, child: int) -> str:
    """Write into the lease who the program is; why that can't be done, empty where it is."""
    try:
        write_lease(lease_fd, msgspec.structs.replace(lease, child_pid=child, child_ticks=start_ticks(child) or 0))
    except OSError as error:
        return f"{paths.lease} can't be written: {error.strerror}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="launcher", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="the run directory")
    parser.add_argument("program", choices=sorted(PROGRAMS), help="what to start")
    parser.add_argument("command", nargs="*", help="the command line to start in its place (behind --)")
    arguments = parser.parse_args()
    paths = RunPaths(arguments.run)
    die_with_parent(supervisor_pid(paths))
    return launch(paths, arguments.program, arguments.command)


if __name__ == "__main__":
    never_fail()
    sys.exit(run_main("launcher", main))
