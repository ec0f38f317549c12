"""Whether the kernel's out-of-memory killer ended a process: by its cgroup's counter, else by the kernel log."""

import os
import re
from pathlib import Path


def oom_kills(membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """How many processes of this cgroup (version 2) were killed for memory; None where that can't be told."""
    try:
        entry = next((line for line in membership.read_text().splitlines() if line.startswith("0::")), None)
        if entry is None:
            return None
        events = (root / entry[3:].lstrip("/") / "memory.events").read_text()
    except OSError:
        return None
    found = re.search(r"^oom_kill (\d+)$", events, re.MULTILINE)
    return int(found[1]) if found else None


def kernel_says_oom(pids: set[int], kernel_log: Path = Path("/dev/kmsg")) -> bool:
    """True where the kernel log, as far as it can be read and is kept, says that one of `pids` was killed for memory."""
    wanted = re.compile(rf"[Kk]illed process ({'|'.join(map(str, sorted(pids)))}) \(".encode())
    try:
        fd = os.open(kernel_log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        while record := _read_record(fd):
            if wanted.search(record):
                return True
    finally:
        os.close(fd)
    return False


def _read_record(fd: int) -> bytes:
    """The next record; empty at the end (the device says EAGAIN) and where reading is not allowed."""
    while True:
        try:
            return os.read(fd, 8192)
        except BrokenPipeError:
            continue  # records were overwritten while we read: the next call goes on behind the gap
        except OSError:
            return b""


def was_oom_killed(pids: set[int], kills_before: int | None) -> bool:
    """For processes of which one died of SIGKILL. `kills_before` is `oom_kills()` from before they were started."""
    kills = oom_kills()
    if kills is not None and kills_before is not None:
        return kills > kills_before
    return kernel_says_oom(pids)
