"""Processes by identity, and children that die with their parents (Linux)."""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
PR_SET_PTRACER = int.from_bytes(b"Yama")
PR_SET_PTRACER_ANY = ctypes.c_ulong(-1)
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel SIGKILL this process when its parent dies; end at once where `parent` is already gone.

    Safe between fork and exec of a single-threaded parent: it only makes two system calls.
    """
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def let_be_traced() -> None:
    """Let processes of the same user look into this one (py-spy on a hang), where Yama would let only its ancestors."""
    _libc.prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0)  # fails where there is no Yama, which then forbids nothing


def name_process(name: str) -> None:
    """What `ps` and `top` call this process, and the kernel where it ends it: at most 15 bytes."""
    _libc.prctl(PR_SET_NAME, name.encode(), 0, 0, 0)


@contextmanager
def taking_orphans_in() -> Iterator[None]:
    """Meanwhile this process becomes the parent of descendants whose own parent ends."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def start_ticks(pid: int) -> int | None:
    """When `pid` started, in clock ticks since boot: with the pid, its identity. None where there is no such process, or a zombie."""
    fields = _stat(pid)
    return None if fields is None or fields[0] == "Z" else int(fields[19])


def state_letter(pid: int) -> str | None:
    """`R`, `S`, `D`, `T`, `Z`, … as in proc(5); None where there is no such process."""
    fields = _stat(pid)
    return None if fields is None else fields[0]


def group_of(pid: int) -> int:
    """The process group of `pid`; 0 where there is no such process."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def alive(pid: int, ticks: int) -> bool:
    """True while the very process that had this pid and start time lives."""
    return pid > 0 and start_ticks(pid) == ticks


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat behind the command's name, which may hold blanks and brackets."""
    try:
        # Unbuffered bytes: the watchdog reads three of these at each turn.
        with Path(f"/proc/{pid}/stat").open("rb", buffering=0) as file:
            return file.read().rpartition(b")")[2].decode().split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def processes_with(variable: str, value: str) -> list[int]:
    """Pids of the processes whose environment, as they were started, has `variable=value`. Zombies and other users' are left out."""
    wanted = os.fsencode(f"{variable}={value}")
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if wanted in environment:
            found.append(int(entry.name))
    return found
