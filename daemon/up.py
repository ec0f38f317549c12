"""`adamctl up`: check everything, then write and start."""

import argparse
import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from adam.contract.checkpoints import list_checkpoints, parse_name, verify
from adam.contract.clock import Stamp, stamp
from adam.contract.config import Config
from adam.contract.config_file import commented_toml, load_config, write_lock
from adam.contract.durable import make_directories, replace_file
from adam.contract.errors import AdamError, BusyError, CheckpointError, TimeoutExpired, UsageError
from adam.contract.notify import notify
from adam.contract.paths import RunPaths
from adam.contract.records import Status
from adam.contract.states import RunState
from adam.contract.supervisor import Supervisor
from adam.daemon import supervisord
from adam.daemon.checks import check_before_start, check_place, check_schemas
from adam.daemon.presets import TINY
from adam.daemon.processes import end_all, read_status, refuse_if_running, wait_until_gone, watchdog_lives
from adam.daemon.run_of import run_paths, shown
from adam.daemon.settle import settle
from adam.daemon.wishes import change_desired, with_running

START_S = 60.0
ENDING_S = 15.0
POLL_S = 0.05


class Start(msgspec.Struct, frozen=True):
    """What is about to be started: `text` is what adam.toml is to say, None where it is there and stays."""

    config: Config
    text: str | None
    breaks: tuple[str, ...]


def run(arguments: argparse.Namespace) -> int:
    paths = run_paths(arguments.run)
    refuse_contradictions(arguments)
    if arguments.prepare and running(paths):
        return 0  # a watchdog that is started again finds its run as it was
    start = check(paths, arguments.config)
    if finished(paths, start.config):
        notify("READY=1")
        return show_finished(paths, arguments.wait)
    with up_lock(paths):
        start = check(paths, arguments.config)  # again, now that nobody can come between
        prepare(paths, start, with_watchdog=not arguments.no_watchdog)
        if arguments.prepare:
            return 0
        desired = change_desired(paths, lambda desired: with_running(desired, True))
        if arguments.foreground:
            supervisord.become(paths)
        status = start_and_wait(paths)
    for line in announcement(paths, start, status, desired.pauses):
        print(line, flush=True)
    return follow_run(paths) if arguments.wait else 0


def refuse_contradictions(arguments: argparse.Namespace) -> None:
    if arguments.wait and arguments.foreground:
        raise UsageError(
            "--wait and --foreground exclude each other", "a run in the foreground is waited for by systemd"
        )
    if arguments.no_watchdog and not (arguments.foreground or arguments.prepare):
        raise UsageError(
            "--no-watchdog is for --foreground and --prepare", "without systemd the watchdog is needed here"
        )


def running(paths: RunPaths) -> bool:
    try:
        refuse_if_running(paths)
    except BusyError:
        return True
    return False


def check(paths: RunPaths, config: str | None) -> Start:
    """Everything that can be said before anything is written. Raises the AdamError of the first thing in the way."""
    check_place(paths)
    check_schemas(paths)
    wait_for_the_end(paths)
    refuse_if_running(paths)
    new, text = wanted_config(paths, config)
    settled, breaks = settle(paths, new)
    check_before_start(paths, settled)
    return Start(settled, text, tuple(breaks))


def wait_for_the_end(paths: RunPaths) -> None:
    """A run whose state is final may still be closing down."""
    status = read_status(paths)
    if status is not None and status.state.final:
        wait_until_gone(paths, ENDING_S)


def wanted_config(paths: RunPaths, named: str | None) -> tuple[Config, str | None]:
    """The configuration of `--config`, else the run's own, else the demo's; and the text that adam.toml is to have."""
    if named is not None:
        path = Path(named)
        config = load_config(path)
        same = paths.config.exists() and path.resolve() == paths.config.resolve()
        return config, None if same else path.read_text()
    if paths.config.exists():
        return load_config(paths.config), None
    if paths.lock.exists():
        # Somebody deleted adam.toml: the run goes on as it was.
        config = load_config(paths.lock)
        return config, commented_toml(config)
    return TINY, commented_toml(TINY)


@contextmanager
def up_lock(paths: RunPaths) -> Iterator[None]:
    """One `up` of a run at a time. Makes the run directory."""
    make_directories(paths.run)
    fd = os.open(paths.up_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(f"another `adamctl up` is at work on {paths.root}", "wait for it") from None
        yield
    finally:
        os.close(fd)


def prepare(paths: RunPaths, start: Start, *, with_watchdog: bool) -> None:
    """Write what the processes read when they start."""
    paths.logs.mkdir(exist_ok=True)
    supervisord.make_socket_place(paths)
    if start.text is not None:
        replace_file(paths.config, start.text.encode())
    changed = not paths.lock.exists() or load_config(paths.lock) != start.config
    write_lock(paths.lock, start.config)
    replace_file(paths.supervisor_conf, supervisord.render(paths, start.config, watchdog=with_watchdog).encode())
    if changed:
        retire_watchdog(paths)


def retire_watchdog(paths: RunPaths) -> None:
    """End systemd's watchdog where it knows only the configuration of before: systemd starts another."""
    status = read_status(paths)
    if status is not None and watchdog_lives(status):
        os.kill(status.watchdog_pid, signal.SIGTERM)


def start_and_wait(paths: RunPaths) -> Status:
    """Start supervisord, and wait until it answers and the watchdog has spoken. Leaves nothing behind where they don't."""
    began = stamp()
    process = supervisord.start_detached(paths)
    try:
        return wait_for_watchdog(paths, process, began)
    except BaseException:
        end_all(paths, grace_s=0.0)
        process.wait()
        raise


def wait_for_watchdog(paths: RunPaths, process: subprocess.Popen[bytes], began: Stamp) -> Status:
    deadline = time.monotonic() + START_S
    while True:
        status = read_status(paths)
        if status is not None and is_newer(status.stamp, began) and (status.state.final or answers(paths)):
            return status
        if process.poll() is not None:
            end = supervisord.log_end(paths.log("supervisord"))
            raise AdamError(f"supervisord ended with exit {process.returncode} at its start:\n{end}")
        if time.monotonic() > deadline:
            end = supervisord.log_end(paths.log("watchdog-output"))
            raise TimeoutExpired(f"the watchdog did not start within {START_S:g} s:\n{end}")
        time.sleep(POLL_S)


def is_newer(moment: Stamp, began: Stamp) -> bool:
    return moment.boot_id == began.boot_id and moment.boottime > began.boottime


def answers(paths: RunPaths) -> bool:
    try:
        return Supervisor(paths.supervisor_socket).pid() > 0
    except AdamError:
        return False


def finished(paths: RunPaths, config: Config) -> bool:
    """True where all steps are trained and their checkpoint is whole; where it is not, the policy sees to it."""
    status, checkpoints = read_status(paths), list_checkpoints(paths.checkpoints)
    if status is None or status.state != RunState.FINISHED or not checkpoints:
        return False
    step, _ = parse_name(checkpoints[-1].name) or (0, 0)
    if step < config.trainer.steps:
        return False
    try:
        verify(checkpoints[-1])
    except CheckpointError:
        return False
    return True


def show_finished(paths: RunPaths, wait: bool) -> int:
    print("the run is finished; to go on, raise trainer.steps in " + shown(paths.config))
    return follow_run(paths) if wait else 0


def follow_run(paths: RunPaths) -> int:
    from adam.daemon.follow import follow

    return follow(paths)


def announcement(paths: RunPaths, start: Start, status: Status, pauses: tuple[str, ...]) -> Iterator[str]:
    yield f"the run {shown(paths.root)} is {status.state}" + (f": {status.reason}" if status.reason else "")
    if start.breaks:
        yield f"changed, so that losses are no longer bit for bit those of before: {', '.join(start.breaks)}"
    if pauses:
        yield f"it is paused by {', '.join(pauses)}; `adamctl resume` goes on"
    yield "see it with `adamctl status`, stop it with `adamctl down`"
