"""The processes of a run: who lives, and how they are ended where nobody answers any more.

A process is of a run when its environment says so (`ADAM_SUPERVISED`): supervisord is started with it, and its
children inherit it. systemd's own watchdog does not have it: it belongs to its unit.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable

import msgspec

from adam.contract import schema
from adam.contract.clock import boot_id
from adam.contract.errors import BusyError, DataError, NotRunningError, TimeoutExpired
from adam.contract.lease import child_lives, launcher_lives, lease_is_held, read_lease
from adam.contract.paths import RunPaths
from adam.contract.process import alive, processes_with
from adam.contract.records import Status

SUPERVISED = "ADAM_SUPERVISED"
POLL_S = 0.05
DYING_S = 2.0  # from the end of a process's memory to the end of its locks
DIE_S = 15.0  # after SIGKILL: only a process that waits for a disk takes longer


def ours(paths: RunPaths) -> list[int]:
    """The run's processes, without this one."""
    return [pid for pid in processes_with(SUPERVISED, str(paths.root)) if pid != os.getpid()]


def read_status(paths: RunPaths) -> Status | None:
    """The watchdog's last word; None where there is none, or none that can be read. Raises SchemaError."""
    try:
        status = schema.load(paths.status, Status)
    except DataError:
        return None
    if status is not None and status.run not in ("", paths.identity):
        return msgspec.structs.replace(
            status, watchdog_pid=0
        )  # the directory is a copy, the watchdog is the original's
    return status


def watchdog_lives(status: Status | None) -> bool:
    """True while the very watchdog that wrote `status` lives."""
    return (
        status is not None and status.stamp.boot_id == boot_id() and alive(status.watchdog_pid, status.watchdog_ticks)
    )


def anybody_lives(paths: RunPaths) -> bool:
    """True where a process of the run lives: first by the identities that are written down, which is cheap."""
    if watchdog_lives(read_status(paths)):
        return True
    lease = read_lease(paths)
    if lease is not None and (launcher_lives(paths, lease) or child_lives(paths, lease)):
        return True
    return bool(ours(paths))


def refuse_if_running(paths: RunPaths) -> None:
    """Raise BusyError where anything of the run is alive. systemd's watchdog, waiting for work, does not count."""
    from adam.contract.supervisor import Supervisor

    if not paths.run.is_dir():
        return
    try:
        pid = Supervisor(paths.supervisor_socket, timeout=2.0).pid()
    except NotRunningError:
        pass
    except TimeoutExpired as error:
        raise BusyError(
            f"the run {paths.root} has a supervisord that does not answer", "end it with `adamctl down`"
        ) from error
    else:
        raise BusyError(
            f"the run {paths.root} is already running (supervisord is process {pid})",
            "see `adamctl status`; stop it with `adamctl down`",
        )
    if left := ours(paths):
        raise BusyError(f"processes of the run {paths.root} are still alive: {left}", "end them with `adamctl down`")
    if not lease_comes_free(paths):
        lease = read_lease(paths)
        who = f"{lease.program} (process {lease.launcher_pid})" if lease else "another process"
        raise BusyError(f"{who} holds the lease of {paths.root}", "wait for it, or end it")


def lease_comes_free(paths: RunPaths) -> bool:
    """Whether nobody holds the lease, now or in a moment.

    The kernel takes a dying process's memory, and with it the environment that `ours` knows it by, before its files and their locks.
    """
    return _comes(lambda: not lease_is_held(paths), DYING_S)


def wait_until_gone(paths: RunPaths, seconds: float) -> bool:
    """True when no process of the run is left, within `seconds`."""
    return _comes(lambda: not ours(paths), seconds)


def _comes(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it is true within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def signal_all(paths: RunPaths, number: signal.Signals) -> None:
    for pid in ours(paths):
        kill(pid, number)


def kill(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def end_all(paths: RunPaths, grace_s: float) -> None:
    """SIGTERM, `grace_s` for saving, then SIGKILL until nobody is left. Raises TimeoutExpired where somebody is.

    supervisord goes first, so that it starts nobody in place of those that end.
    """
    if grace_s > 0:
        signal_all(paths, signal.SIGTERM)
        if wait_until_gone(paths, grace_s):
            return
    deadline = time.monotonic() + DIE_S
    while left := ours(paths):
        if time.monotonic() > deadline:
            raise TimeoutExpired(
                f"processes {left} survive SIGKILL", "they wait for a disk or a driver: see `ps -o pid,stat,wchan`"
            )
        kill_supervisord(paths)
        signal_all(paths, signal.SIGKILL)
        time.sleep(POLL_S)


def kill_supervisord(paths: RunPaths) -> None:
    """SIGKILL to the process in supervisord's pid file, where it is one of the run's."""
    try:
        pid = int(paths.supervisor_pid.read_text())
    except (FileNotFoundError, ValueError):
        return
    if pid in ours(paths):
        kill(pid, signal.SIGKILL)
