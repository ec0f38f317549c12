"""The watchdog's own sign of life, `run/beat-watchdog`: one short line, rewritten in place at every turn of its loop."""

import contextlib
import os
from pathlib import Path

import msgspec

from adam.contract.clock import boot_id, boottime_ns
from adam.contract.process import alive

_WIDTH = 120


class Beat(msgspec.Struct, frozen=True):
    """`replaced`: supervisord starts a new watchdog when this one dies. Under systemd it is false: systemd looks itself."""

    pid: int
    ticks: int
    replaced: bool
    boot_id: str
    boottime_ns: int

    def silent_s(self) -> float:
        """Seconds since the beat, 0.0 where it comes from another boot or its writer is dead: then nobody is frozen."""
        if self.boot_id != boot_id() or not alive(self.pid, self.ticks):
            return 0.0
        return max(0.0, (boottime_ns() - self.boottime_ns) / 1e9)


class BeatWriter:
    """Beats for this process. A page in the page cache: no fsync, and a full disk does not matter after the first beat."""

    def __init__(self, path: Path, ticks: int, *, replaced: bool) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._head = f"{os.getpid()} {ticks} {int(replaced)} {boot_id()} "

    def beat(self) -> None:
        with contextlib.suppress(OSError):  # a full disk that copies on write: without beats we are replaced, at worst
            os.pwrite(self._fd, f"{self._head}{boottime_ns()}".ljust(_WIDTH).encode() + b"\n", 0)

    def close(self) -> None:
        os.close(self._fd)


def read_beat(path: Path) -> Beat | None:
    """The last beat; None where there is none that can be read."""
    try:
        fields = path.read_text().split()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    if len(fields) != 5:
        return None
    pid, ticks, replaced, boot, nanoseconds = fields
    return Beat(int(pid), int(ticks), replaced == "1", boot, int(nanoseconds))
