"""The watch over the watchdog: by the launcher while a program runs, by the keeper whenever it has nothing to do."""

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator

from adam.contract.clock import boottime_ns
from adam.contract.paths import RunPaths
from adam.watchdog.beat import read_beat

CHECK_S = 5.0  # between two looks at the watchdog's beat
FROZEN_S = 30.0  # a watchdog that lives and has not beaten for so long is replaced


class FrozenWatchdog:
    """Finds a watchdog that lives and does nothing, and kills it so that supervisord starts another. `who` looks."""

    def __init__(self, paths: RunPaths, who: str = "launcher") -> None:
        self._path, self._who = paths.beat, who
        self._last_look = boottime_ns()

    def look(self) -> None:
        """Called every CHECK_S. Where this process itself was not woken in time, the machine slept: look again later."""
        now = boottime_ns()
        overslept = now - self._last_look > 2 * CHECK_S * 1e9
        self._last_look = now
        beat = read_beat(self._path)
        if beat is None or overslept or not beat.replaced or beat.silent_s() < FROZEN_S:
            return
        print(
            f"{self._who}: the watchdog {beat.pid} has not beaten for {beat.silent_s():.0f} s: killed", file=sys.stderr
        )
        os.kill(beat.pid, signal.SIGKILL)


def lines_from(fd: int, idle: Callable[[], None]) -> Iterator[bytes]:
    """The whole lines that come from `fd`, without their newlines, until it ends; `idle` is called every CHECK_S in which none does."""
    rest = b""
    while True:
        while not select.select([fd], [], [], CHECK_S)[0]:
            idle()
        block = os.read(fd, 65536)
        if not block:
            return
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
