"""The launcher's watch over the watchdog."""

import os
import signal
import sys

from adam.contract.clock import boottime_ns
from adam.contract.paths import RunPaths
from adam.watchdog.beat import read_beat

CHECK_S = 5.0  # between two looks at the watchdog's beat
FROZEN_S = 30.0  # a watchdog that lives and has not beaten for so long is replaced


class FrozenWatchdog:
    """Finds a watchdog that lives and does nothing, and kills it so that supervisord starts another."""

    def __init__(self, paths: RunPaths) -> None:
        self._path = paths.beat
        self._last_look = boottime_ns()

    def look(self) -> None:
        """Called every CHECK_S. Where this process itself was not woken in time, the machine slept: look again later."""
        now = boottime_ns()
        overslept = now - self._last_look > 2 * CHECK_S * 1e9
        self._last_look = now
        beat = read_beat(self._path)
        if beat is None or overslept or not beat.replaced or beat.silent_s() < FROZEN_S:
            return
        print(f"launcher: the watchdog {beat.pid} has not beaten for {beat.silent_s():.0f} s: killed", file=sys.stderr)
        os.kill(beat.pid, signal.SIGKILL)
