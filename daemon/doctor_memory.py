"""The checks of `adamctl doctor` about shared memory, where snapshots are kept between checkpoints."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from adam.contract.config_file import load_config
from adam.contract.durable import human_bytes
from adam.contract.errors import AdamError
from adam.contract.paths import RunPaths, shared_memory
from adam.contract.ram import FEWEST_SLOTS, LARGEST_SHARE, found_directories, no_room
from adam.daemon.checks import STATE_BYTES, tokenizer_size
from adam.daemon.doctor_words import Finding, ok, warn
from adam.daemon.presets import parameters

SMALL_SHM = 1 << 30
FIRST_HUMAN = 1000  # user ids of people; logind spares system users
LOGIND = Path("/etc/systemd/logind.conf")


def check_memory(paths: RunPaths) -> Iterator[Finding]:
    yield check_shm(shared_memory())
    yield from check_snapshots_fit(paths)
    yield from check_remove_ipc(os.getuid(), Path("/run/systemd/seats"), LOGIND)
    yield from check_left_behind(paths)


def check_shm(path: Path) -> Finding:
    """Where snapshots live in memory, and where torch's workers share theirs."""
    if not path.is_dir():
        return warn(f"{path} is missing: snapshots are staged on disk", "mount a tmpfs there")
    total = shutil.disk_usage(path).total
    if total < SMALL_SHM:
        return warn(f"{path} has only {human_bytes(total)}", "in containers: --shm-size=64g")
    return ok(f"{path} has {human_bytes(total)}")


def check_snapshots_fit(paths: RunPaths) -> Iterator[Finding]:
    """Whether this run's snapshots have room in memory, where its configuration can be read."""
    source = paths.lock if paths.lock.exists() else paths.config
    if not source.exists() or (paths.root.exists() and paths.ram.exists()):
        return
    try:
        config = load_config(source)
        need = FEWEST_SLOTS * STATE_BYTES * parameters(config, tokenizer_size(paths, config))
    except AdamError:
        return  # the check of the disk says so
    if config.checkpoint.ram == "off":
        return
    if why := no_room(need):
        yield warn(f"snapshots will be staged on disk: {why}", more_shm(why, need))
    else:
        yield ok(f"two snapshots ({human_bytes(need)}) fit into shared memory")


def more_shm(why: str, need: int) -> str:
    """What to do about too little shared memory: a mount can be made larger, memory can't."""
    kept = "until then a killed trainer goes on from the last checkpoint"
    if str(shared_memory()) not in why:
        return f"more memory, or a larger limit of the cgroup; {kept}"
    size = -(-int(need / LARGEST_SHARE) // (1 << 30))
    return f"in containers: --shm-size={size}g; else mount -o remount,size={size}G {shared_memory()}; {kept}"


def check_remove_ipc(uid: int, seats: Path, configuration: Path) -> Iterator[Finding]:
    """logind takes the files of people who log out out of /dev/shm, unless it is told not to."""
    if uid < FIRST_HUMAN or not seats.is_dir():
        return
    said = configuration.read_text().splitlines() if configuration.is_file() else []
    if "RemoveIPC=no" in {line.replace(" ", "") for line in said}:
        yield ok("logind leaves shared memory alone (RemoveIPC=no)")
    else:
        yield warn(
            "logind removes your files from shared memory when you log out (RemoveIPC)",
            f"set RemoveIPC=no in {configuration}, or run as a system user",
        )


def check_left_behind(paths: RunPaths) -> Iterator[Finding]:
    """What runs of this user have in shared memory."""
    for found in found_directories():
        size = human_bytes(found.size)
        if found.stale:
            yield warn(f"{found.path} has {size} and {found.stale}", "the next run that starts removes it")
        elif Path(found.root) != paths.root:
            yield ok(f"{found.path} has {size} of {found.root}")
