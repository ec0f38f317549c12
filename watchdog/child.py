"""A helper process of the watchdog that speaks in lines: the keeper, the probe. It never blocks the loop, and can be killed."""

import contextlib
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable

from adam.contract.process import state_letter

TERM_S = 1.0
BURY_S = 1.0  # for one that is killed to be gone
LONGEST_LOOK_S = 1.0


class Quiet:
    """How long nothing was heard. Between two looks a second counts at most: a machine that slept has heard nothing."""

    def __init__(self) -> None:
        self.seconds, self._looked = 0.0, 0.0

    def look(self, now: float) -> None:
        self.seconds += min(max(0.0, now - self._looked), LONGEST_LOOK_S)
        self._looked = now

    def heard(self) -> None:
        """A word, or it begins anew."""
        self.seconds = 0.0


class LineChild:
    """One incarnation after another of `python -P -m MODULE …`.

    Args:
        arguments: behind `python -P -m`; ` --parent PID` is added, so that the child dies with this process.
        selector: wakes the loop when the child has written or ended.
        pauses: seconds to wait before the next start, by the number of starts that failed in a row.
    """

    def __init__(
        self, arguments: list[str], selector: selectors.BaseSelector, pauses: Callable[[int], float], stderr: int
    ) -> None:
        self._command = [sys.executable, "-P", "-m", *arguments, "--parent", str(os.getpid())]
        self._selector, self._pauses, self._stderr = selector, pauses, stderr
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        self._undead: list[subprocess.Popen[bytes]] = []  # killed, and standing in the kernel
        self.deaths = 0  # in a row, without a line in between
        self.start_at = 0.0

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def start_if_due(self, now: float) -> bool:
        """Start it where it does not run and has waited long enough. True where it was started now."""
        if self._process is not None or now < self.start_at:
            return False
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            process_group=0,  # what is sent to our group (supervisord's stopasgroup) must not end it in the middle
        )
        os.set_blocking(self._out, False)
        os.set_blocking(self._in, False)
        self._selector.register(self._out, selectors.EVENT_READ)
        return True

    @property
    def _out(self) -> int:
        assert self._process is not None and self._process.stdout is not None
        return self._process.stdout.fileno()

    @property
    def _in(self) -> int:
        assert self._process is not None and self._process.stdin is not None
        return self._process.stdin.fileno()

    def send(self, line: bytes) -> None:
        """Say a short line. A child that is gone is noticed by `lines`."""
        try:
            os.write(self._in, line + b"\n")
        except BrokenPipeError:
            return

    def lines(self, now: float) -> list[bytes]:
        """The whole lines that came since the last call; notices the child's end and plans the next start."""
        if self._process is None:
            return []
        data, ended = self._rest, False
        while True:
            try:
                block = os.read(self._out, 65536)
            except BlockingIOError:
                break
            if not block:
                ended = True
                break
            data += block
        *lines, self._rest = data.split(b"\n")
        if lines:
            self.deaths = 0
        if ended:
            self._bury(now)
        return lines

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)

    def hush(self) -> None:
        """Close its stdin, by which it knows that this is the end."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def finish(self, now: float, seconds: float) -> None:
        """`hush`, and wait; after `seconds` SIGTERM, and after TERM_S more SIGKILL."""
        self.hush()
        if self._process is not None:
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(TERM_S)
            self._bury(now)

    def end(self, now: float) -> None:
        """Kill it and see it off."""
        if self._process is not None:
            self._bury(now)

    def _bury(self, now: float) -> None:
        """Its stdout is closed: it has ended, or has nothing more to say to us."""
        assert self._process is not None and self._process.stdout is not None and self._process.stdin is not None
        self._selector.unregister(self._out)
        self._process.kill()
        self._process.stdout.close()
        self._process.stdin.close()
        try:
            self._process.wait(BURY_S)
        except subprocess.TimeoutExpired:
            self._leave_alone(self._process)
        self._process, self._rest = None, b""
        self.deaths += 1
        self.start_at = now + self._pauses(self.deaths)

    def _leave_alone(self, process: subprocess.Popen[bytes]) -> None:
        """It stands in the kernel, and will do nothing more but die: nobody waits for that."""
        self._undead = [*(other for other in self._undead if other.poll() is None), process]
        module = self._command[3]
        text = f"{module} (process {process.pid}, state {state_letter(process.pid)}) was killed and is not dead in {BURY_S:g} s: left alone"
        with contextlib.suppress(OSError):  # a log on a full disk
            os.write(self._stderr, f"watchdog: {text}\n".encode())
