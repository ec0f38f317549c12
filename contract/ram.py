"""The run's directory in shared memory, where snapshots outlive the process that wrote them (not the machine).

    /dev/shm/adam-IDENTITY/   RUN (the run directory, for whoever finds this)   slot-0/rank-00000.safetensors …

`$ADAM_SHM` names another tmpfs. A directory whose run is gone, or was copied elsewhere, is stale: nobody will ever read it.
"""

import fcntl
import os
import shutil
import stat
import time
from pathlib import Path

import msgspec
import psutil

from adam.contract.durable import human_bytes, replace_file
from adam.contract.errors import DiskError
from adam.contract.flock import flocked
from adam.contract.paths import RAM_PREFIX, RunPaths, shared_memory

OWNER = "RUN"
# One is being written, one is the newest that is complete, and one may be being copied by the keeper for half a minute.
SLOTS, FEWEST_SLOTS = 3, 2
NAMELESS_S = 60.0
LARGEST_SHARE = 0.8  # of what is free: the trainer itself and the page cache need the rest
CGROUP = Path("/sys/fs/cgroup")


class Found(msgspec.Struct, frozen=True):
    """A directory in shared memory that belongs to some run; `stale` says why nobody will ever read it, empty: it is in use."""

    path: Path
    root: str
    size: int  # bytes
    stale: str


def private_directory(place: Path) -> None:
    """Make `place` for this user alone. Raises DiskError where somebody else made it: whoever owns it could change its files."""
    place.mkdir(mode=0o700, exist_ok=True)
    status = place.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise DiskError(f"{place} is not a directory of ours alone", "remove it")


def claim(paths: RunPaths) -> Path:
    """The run's directory in shared memory, made where it is missing. Raises DiskError, OSError."""
    place = paths.ram
    private_directory(place)
    replace_file(place / OWNER, f"{paths.root}\n".encode(), durable=False)
    return place


def hold(place: Path) -> int:
    """A descriptor that says, as long as it is open, that a process uses `place`; also to those who don't see that process
    (another container that shares /dev/shm)."""
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise DiskError(f"{place} is just being removed", "it is made anew soon") from None
    return fd


def no_room(need: int) -> str:
    """Why `need` more bytes should not be put into shared memory; empty where they may."""
    shm = shared_memory()
    if not shm.is_dir() or not os.access(shm, os.W_OK):
        return f"{shm} is not there, or can't be written"
    limits = {
        str(shm): shutil.disk_usage(shm).free,
        "the machine's memory": psutil.virtual_memory().available,
        "the memory limit of this cgroup": cgroup_left(),
    }
    what, free = min(limits.items(), key=lambda item: item[1])
    if need > free * LARGEST_SHARE:
        return f"{human_bytes(need)} are needed and {what} has {human_bytes(free)} left"
    return ""


def cgroup_left(root: Path = CGROUP, own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes until the tightest memory limit of this process's cgroup (version 2) or one above it; a huge number where none is set."""
    left = 1 << 62
    try:
        place = root / own.read_text().rpartition("::")[2].strip().lstrip("/")
        while place.is_relative_to(root):
            limit = _number(place / "memory.max")
            if limit is not None:
                left = min(left, limit - (_number(place / "memory.current") or 0))
            if place == root:
                break
            place = place.parent
    except OSError:
        return left  # no cgroups here, or not ours to read: the other limits hold
    return left


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def found_directories() -> list[Found]:
    """What Adam's runs of this user have in shared memory."""
    shm = shared_memory()
    if not shm.is_dir():
        return []
    places = [
        path for path in sorted(shm.glob(f"{RAM_PREFIX}*")) if path.is_dir() and path.stat().st_uid == os.getuid()
    ]
    return [_look(path) for path in places]


def _held(place: Path) -> bool:
    with flocked(place, fcntl.LOCK_EX | fcntl.LOCK_NB) as free:
        return not free


def _look(path: Path) -> Found:
    size = sum(file.stat().st_blocks * 512 for file in path.rglob("*") if file.is_file())
    try:
        root = (path / OWNER).read_text().rstrip("\n")
    except FileNotFoundError:
        root = ""
    if not root:
        # Between its making and its naming there is a moment.
        young = time.time() - path.stat().st_mtime < NAMELESS_S
        return Found(path, "", size, "" if young else "it names no run")
    if _held(path):
        return Found(path, root, size, "")  # by a run of another container, perhaps, which is not to be seen from here
    if not Path(root).is_dir():
        return Found(path, root, size, f"its run {root} is gone")
    if RunPaths(Path(root)).ram.name != path.name:
        return Found(path, root, size, f"its run {root} is another directory now")
    return Found(path, root, size, "")


def remove_stale(own: RunPaths | None = None) -> list[Found]:
    """Delete the directories that nobody will ever read, never one that is held (`hold`) nor that of `own`; what was deleted."""
    stale = [found for found in found_directories() if found.stale and (own is None or found.path != own.ram)]
    return [found for found in stale if _removed(found.path)]


def _removed(place: Path) -> bool:
    with flocked(place, fcntl.LOCK_EX | fcntl.LOCK_NB) as free:
        if free:
            shutil.rmtree(place, ignore_errors=True)
        return free
