"""Between supervisord and a program: takes the lease, starts the program, and tells truly how it ended.

    python -P -m adam.watchdog.launcher --run DIR trainer|forge [-- COMMAND …]

supervisord alone reports -1 for every signal and knows neither core, nor memory, nor the last words. COMMAND replaces the
program's own command line (tests; torchrun). This process stays single-threaded and small; it exits 0 when the program has
ended, however that was, and with a code of its own only where nothing was started. Where a trainer that had run for a while was
ended by a signal, it stays, with a template of the next one at hand (`template.py`), and carries out the next plan too.
"""

import argparse
import functools
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import msgspec

from adam.contract import schema
from adam.contract.birth import Birth
from adam.contract.clock import stamp
from adam.contract.errors import UsageError, run_main
from adam.contract.lease import take_lease, write_lease
from adam.contract.notify import notify
from adam.contract.output import LAST_WORDS, memory_for_last_words, never_fail
from adam.contract.paths import RunPaths
from adam.contract.process import die_with_parent, start_ticks
from adam.contract.records import ExitReport, Lease, Plan
from adam.contract.reserve import make_reserve
from adam.contract.states import Exit
from adam.watchdog.child_log import ChildLog
from adam.watchdog.exit_report import end_group, never_started, report, tail_of, write_report
from adam.watchdog.frozen import CHECK_S, FrozenWatchdog
from adam.watchdog.oom import oom_kills
from adam.watchdog.parent import supervisor_pid
from adam.watchdog.pulses import pids_of
from adam.watchdog.template import Template, begin, template_command
from adam.watchdog.watched import Watched

LIVED_S = 5.0  # an attempt that was shorter is followed by one that shares nothing with it
LOOK_S, LONGEST_LOOK_S = 0.03, 0.5  # between two looks for the next plan; the longer the wait, the fewer
KEPT_S = 60.0  # that a template waits for the next attempt

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
    """Passes SIGTERM and SIGINT on to the program; one that comes while there is none waits for it."""

    def __init__(self) -> None:
        self._child, self._waiting = 0, 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._waiting = number
        if self._child:
            os.kill(self._child, number)

    @property
    def asked(self) -> bool:
        """True where somebody wants an end: nothing is begun any more, however the program took it."""
        return self._waiting != 0

    def to(self, child: int) -> None:
        """From now on to `child`, which must not be reaped before `stop`."""
        self._child = child
        if self._waiting:
            os.kill(child, self._waiting)

    def stop(self) -> None:
        self._child = 0


def spawn(command: list[str], plan: Plan, lease_fd: int, log_fd: int, words_fd: int) -> int:
    """Start the program in a process group of its own, to die with this process: its pid. Raises OSError."""
    environment = {
        **os.environ,
        LAST_WORDS: str(words_fd),
        "ADAM_ATTEMPT": str(plan.attempt),
        "ADAM_TOKEN": str(plan.token),
        "PYTHONSAFEPATH": "1",
    }
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log_fd,
        stderr=log_fd,
        env=environment,
        pass_fds=(lease_fd, words_fd),
        process_group=0,
        preexec_fn=functools.partial(die_with_parent, os.getpid()),  # noqa: PLW1509 - this process has one thread
    )
    process.returncode = 0  # not Popen's to reap: `report` asks for what it used, too
    return process.pid


def wait_for(child: int, each: Callable[[], None]) -> None:
    """Until `child` has ended (it is not reaped), with few wake-ups; `each` is called at every one."""
    pidfd = os.pidfd_open(child)
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    while not poller.poll(CHECK_S * 1000):
        each()
    os.close(pidfd)


class Launcher:
    """Carries out plans for `program`: one, and the next where a template of it is at hand."""

    def __init__(self, paths: RunPaths, program: str, override: list[str]) -> None:
        self._paths, self._program = paths, program
        self._command = command_of(program, paths, override)
        self._copies = program == "trainer" and not override
        self._template: Template | None = None
        # A template, in this attempt: one that dies, of too little memory perhaps, is not made at once again.
        self._made = False
        self._kills: int | None = None  # for memory, before anything that the program can have caused
        self._relay, self._frozen = Relay(), FrozenWatchdog(paths)

    def run(self) -> None:
        """Raises UsageError (no such plan), BusyError (the lease is held)."""
        plan: Plan | None = read_plan(self._paths, self._program)
        while plan is not None:
            lease_fd, lease = take_lease(self._paths, plan.program, plan.token, plan.attempt)
            began = time.monotonic()
            told = self._attempt(plan, lease_fd, lease)
            doubtful = told.signal is None or told.oom_killed or time.monotonic() - began < LIVED_S
            ready = not doubtful and self._template is not None and self._template.ready
            plan = self._next(plan, lease_fd, lease) if ready and not self._relay.asked else None
        self._end_template()

    def _end_template(self) -> None:
        if self._template is not None:
            self._template.end()
            self._template = None

    def _attempt(self, plan: Plan, lease_fd: int, lease: Lease) -> ExitReport:
        """Start the program, wait for its end and tell it."""
        self._made = False
        place = self._paths.exit_report(self._program)
        make_reserve(place)
        log, words_fd = ChildLog(self._paths.log(self._program)), memory_for_last_words()
        self._kills, started = oom_kills(), stamp()
        try:
            child, gate = self._start(plan, lease_fd, log.fd, words_fd)
        except OSError as error:
            told = never_started(plan, error, started)
        else:
            trouble = name_child(self._paths, lease_fd, lease, child)
            if gate is not None and trouble:
                os.close(gate)
            if not trouble:  # else nobody could stop it, or see it hang: it is ended at once
                if gate is not None:
                    begin(gate)
                self._relay.to(child)
                notify("READY=1")
                wait_for(child, self._look)
            self._relay.stop()
            end_group(child)
            told = report(plan, child, tail_of(log, words_fd), started, self._kills, pids_of(self._paths, plan.token))
            if trouble:
                told = msgspec.structs.replace(told, code=int(Exit.DISK), signal=None, tail=(trouble,))
        os.close(words_fd)
        os.close(log.fd)
        write_report(place, told)
        return told

    def _start(self, plan: Plan, lease_fd: int, log_fd: int, words_fd: int) -> tuple[int, int | None]:
        """(pid, gate) of the program: a copy of the template where there is one, else a process of its own, without gate. Raises OSError."""
        if plan.fresh:
            self._end_template()
        if self._template is not None:
            birth = Birth(attempt=plan.attempt, token=plan.token, launcher_pid=os.getpid())
            if (copy := self._template.copy(birth, lease_fd, log_fd, words_fd)) is not None:
                return copy
            self._template = None
        return spawn(self._command, plan, lease_fd, log_fd, words_fd), None

    def _look(self) -> None:
        """Called every CHECK_S while a program runs: the first time is soon enough for a template."""
        self._frozen.look()
        if self._template is not None and not self._template.alive:
            self._kills = oom_kills()  # it may have been killed for memory: that says nothing of the program
        if self._copies and not self._made and (self._template is None or not self._template.alive):
            self._made = True
            self._end_template()
            self._template = Template(template_command(self._paths.root))

    def _next(self, done: Plan, lease_fd: int, lease: Lease) -> Plan | None:
        """Give the lease back and wait for the next plan; None where it is not to come."""
        waiting = {"launcher_pid": 0, "launcher_ticks": 0}
        waiting |= {"waiting_pid": lease.launcher_pid, "waiting_ticks": lease.launcher_ticks}
        try:
            write_lease(lease_fd, msgspec.structs.replace(lease, **waiting))
        except OSError:
            return None  # nobody would know that this process waits
        os.close(lease_fd)
        plans = Watched(lambda: schema.load(self._paths.plan, Plan), self._paths.plan)
        since = time.monotonic()
        while not self._relay.asked:
            plan = plans.get()
            if plan is not None and plan.token != done.token and plan.program == self._program:
                return plan
            waited = time.monotonic() - since
            if waited > KEPT_S:
                self._end_template()  # what it was made of may have changed
            time.sleep(min(LONGEST_LOOK_S, LOOK_S + waited / 20))
            self._frozen.look()
        return None


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
    Launcher(paths, arguments.program, arguments.command).run()
    return 0


if __name__ == "__main__":
    never_fail()
    sys.exit(run_main("launcher", main))
