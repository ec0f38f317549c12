"""The checks of `adamctl doctor` that look at a run directory, or at the place where it is going to be."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from adam.contract.config_file import load_config
from adam.contract.durable import free_bytes, human_bytes
from adam.contract.errors import AdamError
from adam.contract.lease import lease_is_held
from adam.contract.paths import RunPaths
from adam.contract.ram import FEWEST_SLOTS
from adam.daemon.checks import CHECKPOINTS, STATE_BYTES, check_writable, tokenizer_size
from adam.daemon.doctor_words import Finding, bad, ok, warn
from adam.daemon.presets import parameters
from adam.daemon.processes import anybody_lives, ours, read_status, watchdog_lives

# Locks and memory maps of these are shared with other machines badly or not at all.
NETWORKED = {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuse.glusterfs", "ceph", "lustre", "beegfs", "afs"}


def check_run(paths: RunPaths) -> Iterator[Finding]:
    place = existing(paths.root)
    yield check_permissions(paths)
    yield check_file_system(place)
    yield check_flock(place)
    yield check_socket(paths)
    yield check_disk(paths)
    yield check_processes(paths)


def existing(path: Path) -> Path:
    """`path`, or the nearest directory above it that is there."""
    while not path.is_dir():
        path = path.parent
    return path


def check_permissions(paths: RunPaths) -> Finding:
    try:
        check_writable(paths)
    except AdamError as error:
        return bad(str(error), "")
    return ok(f"{paths.root} can be written")


def check_file_system(place: Path) -> Finding:
    kind = file_system(place, Path("/proc/self/mountinfo").read_text())
    if kind in NETWORKED:
        return bad(
            f"{place} is on {kind}, a network file system: leases and memory maps need a local one",
            "choose another --run",
        )
    return ok(f"{place} is on a local file system ({kind})")


def file_system(place: Path, mountinfo: str) -> str:
    """The type of the file system that `place` is on: of the longest mount point above it."""
    best, kind = "", "unknown"
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        point = before.split()[4].encode().decode("unicode_escape")
        if place.is_relative_to(point) and len(point) >= len(best):
            best, kind = point, after.split()[0]
    return kind


def check_flock(place: Path) -> Finding:
    """A lock that one descriptor holds is refused to another."""
    if not os.access(place, os.W_OK):
        return warn(f"locks in {place} were not tried: it can't be written", "correct its permissions")
    with tempfile.NamedTemporaryFile(dir=place, prefix=".adam-doctor-") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        second = os.open(file.name, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return ok(f"file locks work in {place}")
        finally:
            os.close(second)
    return bad(f"file locks do not work in {place}: two trainers could write one run", "choose another --run")


def check_socket(paths: RunPaths) -> Finding:
    if not paths.root.exists() or paths.supervisor_socket.parent == paths.run:
        return ok("supervisord's socket is in the run directory")
    return warn(
        f"the run's path is too long for a unix socket: it is at {paths.supervisor_socket}",
        "keep cleaners of /tmp away from it, or choose a shorter path",
    )


def check_disk(paths: RunPaths) -> Finding:
    """Room for what the run writes, where its configuration can be read."""
    free, source = free_bytes(paths.root), paths.lock if paths.lock.exists() else paths.config
    if not source.exists():
        return ok(f"{human_bytes(free)} are free for {paths.root}")
    try:
        config = load_config(source)
        need = (CHECKPOINTS + FEWEST_SLOTS) * STATE_BYTES * parameters(config, tokenizer_size(paths, config))
    except AdamError as error:
        return bad(str(error), "")
    if free < need:
        return warn(f"{human_bytes(free)} are free, the run may need {human_bytes(need)} more", "free some space")
    return ok(f"{human_bytes(free)} are free, the run may need {human_bytes(need)}")


def check_processes(paths: RunPaths) -> Finding:
    """Processes without a watchdog, or a lease that nobody we know of holds."""
    if not paths.run.is_dir():
        return ok("nothing runs here yet")
    left, status = ours(paths), read_status(paths)
    if left and not watchdog_lives(status):
        return bad(f"processes {left} of this run have no watchdog", "`adamctl down` ends them")
    if lease_is_held(paths) and not anybody_lives(paths):
        return bad(f"somebody unknown holds {paths.lease}", f"find them with `fuser {paths.lease}`")
    state = f"the run is {status.state}" if status and left else "the run is not running"
    return ok(f"{state}, {len(left)} processes")
