"""How a program ended: what its launcher tells."""

import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from adam.contract import schema
from adam.contract.clock import Stamp, stamp
from adam.contract.errors import DISK_ERRNOS
from adam.contract.output import read_last_words
from adam.contract.records import ExitReport, Plan
from adam.contract.states import Exit
from adam.watchdog.child_log import ChildLog
from adam.watchdog.oom import was_oom_killed

WRITE_AGAIN_S = 0.5
COULD_NOT_START = 127  # as shells report it


def end_group(child: int) -> None:
    """Kill what is left of the program's process group; `child` is not reaped yet, so the group's number is still its own."""
    try:
        os.killpg(child, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # nobody left


def report(
    plan: Plan, child: int, tail: tuple[str, ...], started: Stamp, kills_before: int | None, others: Iterable[int] = ()
) -> ExitReport:
    """Reap the program and say how it ended. others: processes that it may have been ended for (ranks)."""
    _, status, usage = os.wait4(child, 0)
    signalled = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    return ExitReport(
        program=plan.program,
        attempt=plan.attempt,
        token=plan.token,
        pid=child,
        code=os.WEXITSTATUS(status) if signalled is None else None,
        signal=signalled,
        core=signalled is not None and os.WCOREDUMP(status),
        oom_killed=signalled == signal.SIGKILL and was_oom_killed({child, *others}, kills_before),
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
