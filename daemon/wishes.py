"""`adamctl pause`, `resume`, `save`: what people want, in `run/desired.json`. The watchdog reads it at least twice a second."""

import argparse
import fcntl
import time
from collections.abc import Callable

import msgspec

from adam.contract import schema
from adam.contract.clock import stamp
from adam.contract.config_file import load_config
from adam.contract.errors import DataError, NotRunningError, TimeoutExpired
from adam.contract.flock import flocked
from adam.contract.paths import RunPaths
from adam.contract.records import Desired, Status
from adam.contract.states import RunState
from adam.daemon.processes import anybody_lives, read_status
from adam.daemon.run_of import run_of

HUMAN = "human"
POLL_S = 0.1


def read_desired(paths: RunPaths) -> Desired:
    """What was wanted last; the defaults where nothing was, or nothing that can be read."""
    try:
        return schema.load(paths.desired, Desired) or Desired()
    except DataError:
        return Desired()


def change_desired(paths: RunPaths, change: Callable[[Desired], Desired]) -> Desired:
    """Read, change and replace `desired.json` under a lock on `run/`, so that two adamctl lose neither's change."""
    with flocked(paths.run, fcntl.LOCK_EX):
        desired = msgspec.structs.replace(change(read_desired(paths)), stamp=stamp())
        schema.save_reserved(paths.desired, desired)
    return desired


def with_running(desired: Desired, running: bool) -> Desired:
    return msgspec.structs.replace(desired, running=running)


def with_pause(desired: Desired, requester: str) -> Desired:
    return msgspec.structs.replace(desired, pauses=tuple(sorted({*desired.pauses, requester})))


def without_pause(desired: Desired, requester: str) -> Desired:
    return msgspec.structs.replace(desired, pauses=tuple(name for name in desired.pauses if name != requester))


def with_save(desired: Desired) -> Desired:
    return msgspec.structs.replace(desired, saves=desired.saves + 1)


def pause(arguments: argparse.Namespace) -> int:
    """Ask for a pause. It outlives `down`, `up` and reboots, until `resume`."""
    paths = running_run(arguments)
    change_desired(paths, lambda desired: with_pause(desired, HUMAN))
    print("training pauses at the next micro-step; `adamctl resume` goes on")
    return 0


def resume(arguments: argparse.Namespace) -> int:
    """Take the pause back; also one of a run that does not run now."""
    paths = run_of(arguments)
    desired = change_desired(paths, lambda desired: without_pause(desired, HUMAN))
    others = ", ".join(desired.pauses)
    print(f"training stays paused by: {others}" if others else "no pause is left: training goes on")
    return 0


def save(arguments: argparse.Namespace) -> int:
    """Ask for a checkpoint and wait until it is verified on disk."""
    paths = running_run(arguments)
    refuse_hopeless(paths, read_status(paths))
    wanted = change_desired(paths, with_save).saves
    if arguments.no_wait:
        print("a checkpoint was asked for")
        return 0
    deadline = time.monotonic() + load_config(paths.lock).watchdog.save_seconds
    while (status := read_status(paths)) is None or status.saves_done < wanted:
        refuse_hopeless(paths, status)
        if time.monotonic() > deadline:
            raise TimeoutExpired(
                "the checkpoint was not done in time", "see `adamctl status` and `adamctl logs trainer`"
            )
        time.sleep(POLL_S)
    print(f"saved: step {status.checkpoint.step}" if status.checkpoint else "saved")
    return 0


def refuse_hopeless(paths: RunPaths, status: Status | None) -> None:
    """Raise NotRunningError where no checkpoint can come of waiting."""
    if status is not None and status.state == RunState.FORGING:
        raise NotRunningError("the run is forging: there is nothing to save yet")
    if status is not None and status.state.final:
        raise NotRunningError(f"the run is {status.state}: {status.reason}")
    if not anybody_lives(paths):
        raise NotRunningError(f"no process of {paths.root} is alive", "start it with `adamctl up`")


def running_run(arguments: argparse.Namespace) -> RunPaths:
    """The run that is meant. Raises NotRunningError where it does not run."""
    paths = run_of(arguments)
    if not anybody_lives(paths):
        raise NotRunningError(f"the run {paths.root} is not running", "start it with `adamctl up`")
    return paths
