"""`adamctl down`: ask, wait, and where nobody answers end the processes one by one. Afterwards nobody is left."""

import argparse
import time

from adam.contract.config_file import load_config
from adam.contract.errors import AdamError
from adam.contract.paths import RunPaths
from adam.contract.supervisor import Supervisor
from adam.daemon.processes import anybody_lives, end_all, ours, read_status, watchdog_lives
from adam.daemon.run_of import run_of, shown
from adam.daemon.wishes import change_desired, with_running

POLL_S = 0.05
SILENT_S = 10.0  # a watchdog beats at every turn of its loop, at least twice a second
CLOSING_S = 3.0  # a supervisord that closes down answers nobody any more
MARGIN_S = 20.0  # beyond stop_seconds, for settling and closing down
GRACE_S = 5.0  # between SIGTERM and SIGKILL where asking was in vain
SAY_S = 10.0


def run(arguments: argparse.Namespace) -> int:
    """Stop the run. One that does not run is left as it is: what was asked for is so already."""
    paths = run_of(arguments)
    was_running = anybody_lives(paths)
    change_desired(paths, lambda desired: with_running(desired, False))
    if not was_running:
        print(f"the run {shown(paths.root)} is not running")
        return 0
    why = (
        ""
        if not arguments.now and wait_for_the_end(paths)
        else "asked to end at once"
        if arguments.now
        else "it did not end"
    )
    if ours(paths):
        print(f"{why or 'some are left'}: ending processes {ours(paths)}", flush=True)
        end_all(paths, grace_s=0.0 if arguments.now else GRACE_S)
    status = read_status(paths)
    checkpoint = f"; newest checkpoint: step {status.checkpoint.step}" if status and status.checkpoint else ""
    print(f"the run {shown(paths.root)} is down, no process of it is left{checkpoint}")
    return 0


def wait_for_the_end(paths: RunPaths) -> bool:
    """True when the watchdog has brought the run to an end; False where it does not answer, or takes too long."""
    seconds = stop_seconds(paths)
    began = said = time.monotonic()
    beat = Beat(paths, began)
    peopled = began  # when somebody who could end the run was last seen
    print(f"asked to stop; the trainer saves first (at most {seconds:.0f} s)", flush=True)
    while ours(paths) or systemd_works(paths):
        now = time.monotonic()
        peopled = peopled if deserted(paths) else now
        if now - began > seconds + MARGIN_S or beat.silent_s(now) > SILENT_S or now - peopled > CLOSING_S:
            return False
        if now - said > SAY_S:
            said = now
            status = read_status(paths)
            print(f"{now - began:.0f} s: {status.state} {status.reason}" if status else "waiting", flush=True)
        time.sleep(POLL_S)
    return True


def stop_seconds(paths: RunPaths) -> float:
    """What the configuration grants for the last save; a configuration that can't be read must not keep a run alive."""
    try:
        return load_config(paths.lock).watchdog.stop_seconds
    except AdamError:
        return 60.0


def systemd_works(paths: RunPaths) -> bool:
    """True while a watchdog that is not among the run's processes (systemd's) has not yet reached a final state."""
    status = read_status(paths)
    return status is not None and watchdog_lives(status) and not status.state.final


def deserted(paths: RunPaths) -> bool:
    """True where neither watchdog nor supervisord lives: nobody will do what was asked."""
    if watchdog_lives(read_status(paths)):
        return False
    try:
        return Supervisor(paths.supervisor_socket, timeout=1.0).pid() == 0
    except AdamError:
        return True


class Beat:
    """The watchdog's sign of life, as this process sees it change: by its own clock, so that none can jump."""

    def __init__(self, paths: RunPaths, now: float) -> None:
        self._path, self._changed = paths.beat, now
        self._last = self._read()

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return b""

    def silent_s(self, now: float) -> float:
        """Seconds without a change, up to `now`."""
        beat = self._read()
        if beat != self._last:
            self._last, self._changed = beat, now
        return now - self._changed
