"""The lease: one holder of a run at a time, by a flock that its holder's children inherit."""

import fcntl
import os
import time

from adam.contract import schema
from adam.contract.clock import boot_id, stamp
from adam.contract.errors import BusyError, DataError
from adam.contract.paths import RunPaths
from adam.contract.process import alive, group_of, processes_with, start_ticks
from adam.contract.records import Lease

PROBED_S = 2.0  # somebody who only asks (`lease_is_held`) has it for a moment; on a loaded machine that can be long


def take_lease(paths: RunPaths, program: str, token: int, attempt: int) -> tuple[int, Lease]:
    """Take the lease for this process: (the locked file descriptor, what was written into the file).

    The lock lasts until every process that has the descriptor has closed it or died.
    Raises BusyError naming the holder, or where a newer token was seen (a process that slept through its own replacement).
    """
    fd = os.open(paths.lease, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not _locked_within(fd, PROBED_S):
            holder = read_lease(paths)
            who = f"{holder.program} (process {holder.launcher_pid})" if holder else "another process"
            raise BusyError(f"{who} holds the lease of {paths.root}", "stop it first with `adamctl down`")
        previous = read_lease(paths)
        if previous is not None and previous.token > token:
            raise BusyError(
                f"the lease of {paths.root} was given out with token {previous.token}, this process has {token}"
            )
        pid = os.getpid()
        lease = Lease(
            run=paths.identity,
            program=program,
            token=token,
            attempt=attempt,
            launcher_pid=pid,
            launcher_ticks=start_ticks(pid) or 0,
            stamp=stamp(),
        )
        write_lease(fd, lease)
    except BaseException as error:
        os.close(fd)
        if isinstance(error, OSError):
            error.filename = error.filename or str(paths.lease)
        raise
    return fd, lease


def _locked_within(fd: int, seconds: float) -> bool:
    """Lock `fd`; False where another has it for longer than somebody needs who only asks (`lease_is_held`)."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
        time.sleep(0.02)


def write_lease(fd: int, lease: Lease) -> None:
    """Write into the locked file itself: a replacement would have another inode, which nobody has locked.

    Padded to a fixed size and written by one call, so that a reader never meets half of it.
    """
    os.pwrite(fd, schema.encode(lease).ljust(1024), 0)


def read_lease(paths: RunPaths) -> Lease | None:
    """What the last holder wrote, None where nobody ever held it, or it is damaged. Says nothing about whether it is still held: that is
    the lock's to say, and the plan has the highest token that was ever given out. Raises SchemaError.
    """
    try:
        return schema.decode(paths.lease.read_bytes(), Lease, str(paths.lease))
    except (FileNotFoundError, DataError):
        return None  # a power cut leaves zeros or a part where nothing was durable, and disks rot


def launcher_lives(paths: RunPaths, lease: Lease) -> bool:
    return _is_ours(paths, lease) and alive(lease.launcher_pid, lease.launcher_ticks)


def launcher_waits(paths: RunPaths, lease: Lease) -> bool:
    """True where the launcher has carried out its plan and takes up the next one for its program that it finds."""
    return _is_ours(paths, lease) and alive(lease.waiting_pid, lease.waiting_ticks)


def child_lives(paths: RunPaths, lease: Lease) -> bool:
    return _is_ours(paths, lease) and alive(lease.child_pid, lease.child_ticks)


def processes_of(paths: RunPaths, token: int) -> set[int]:
    """Pids of the run's processes that belong to the attempt with `token`.

    By their environment; and by the process group that the lease names, as a template's copy has the template's environment.
    """
    ours = set(processes_with("ADAM_SUPERVISED", str(paths.root)))
    lease = read_lease(paths)
    group = lease.child_pid if lease is not None and lease.token == token and _is_ours(paths, lease) else 0
    return {pid for pid in ours if group and group_of(pid) == group} | ours.intersection(
        processes_with("ADAM_TOKEN", str(token))
    )


def _is_ours(paths: RunPaths, lease: Lease) -> bool:
    """False where the file was copied with its run directory, or is of another boot: the processes it names are none of this run's."""
    return lease.run in ("", paths.identity) and lease.stamp.boot_id == boot_id()


def lease_is_held(paths: RunPaths) -> bool:
    """True while any process holds the lease."""
    try:
        fd = os.open(paths.lease, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
