"""Sides of a comparison that take turns in one run: wall clock, CPU of all their processes, and in a turn of its own their memory."""

import os
import resource
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil

Sides = Mapping[str, Callable[[], object]]


class Taken(NamedTuple):
    """Seconds: by the clock, of CPU of all processes of a side, and of CPU of the first one."""

    wall: float
    cpu: float
    first: float


class Turns:
    """What each side has taken, turn by turn."""

    def __init__(self) -> None:
        self.taken: dict[str, list[Taken]] = {}
        self._wall, self._ours, self._machine = 0.0, 0.0, 0.0

    def take(self, sides: Sides, rounds: int) -> None:
        """Every side `rounds` times, in turns."""
        start, ours, machine = time.perf_counter(), _own_cpu() + _children_cpu(), _machine_cpu()
        for _ in range(rounds):
            for name, work in sides.items():
                self.taken.setdefault(name, []).append(_taken(work))
        self._wall += time.perf_counter() - start
        self._ours += _own_cpu() + _children_cpu() - ours
        self._machine += _machine_cpu() - machine

    def rate(self, name: str, size: float, column: str = "cpu") -> float:
        """`size` a second, the median."""
        return size / median(getattr(taken, column) for taken in self.taken[name])

    def ratio(self, slow: str, fast: str, column: str = "cpu") -> str:
        """How many times as fast: the median of pairs, and their spread."""
        ratios = sorted(
            getattr(a, column) / getattr(b, column) for a, b in zip(self.taken[slow], self.taken[fast], strict=True)
        )
        return f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"

    def others(self) -> str:
        """What else ran on the machine meanwhile."""
        return (
            f"others took {max(0.0, self._machine - self._ours) / self._wall:.2f} of {os.cpu_count()} cores meanwhile"
        )


def _taken(work: Callable[[], object]) -> Taken:
    children = _children_cpu()  # looking for them takes some time itself
    first, wall = _own_cpu(), time.perf_counter()
    work()
    wall, first = time.perf_counter() - wall, _own_cpu() - first
    return Taken(wall, first + _children_cpu() - children, first)


def _own_cpu() -> float:
    """Seconds of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _children_cpu() -> float:
    """Seconds of the processes below this one, those that have ended and those that live."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    living = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return ended.ru_utime + ended.ru_stime + sum(times.user + times.system for times in living)


def _machine_cpu() -> float:
    """Seconds of CPU that all processes of the machine have taken."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, interrupts, soft = map(int, fields[:7])
    return (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK")


def most_memory(work: Callable[[], object], *, mine: bool = True, every: float = 0.1) -> str:
    """The most that this process (where it is `mine`) and all below it held while `work` ran.

    PSS, and the sum of RSS, which counts shared pages for each process.
    """
    most = [0, 0]
    done = threading.Event()

    def look() -> None:
        ended = False
        while not ended:
            ended = done.wait(every)
            processes = [psutil.Process()] * mine + psutil.Process().children(recursive=True)
            sizes = [_memory(process) for process in processes]
            for kind in (0, 1):
                most[kind] = max(most[kind], sum(size[kind] for size in sizes))

    watching = threading.Thread(target=look)
    watching.start()
    try:
        work()
    finally:
        done.set()
        watching.join()
    return f"{most[0] / 1e6:,.0f} MB (RSS {most[1] / 1e6:,.0f})"


def _memory(process: psutil.Process) -> tuple[int, int]:
    try:
        used = process.memory_full_info()
    except psutil.Error:  # it has just ended
        return 0, 0
    return used.pss, used.rss
