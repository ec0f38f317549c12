"""The launcher's side of the trainer's template: a child that has imported torch and is copied for the next attempt.

Two thirds of a recovery are `import torch`; a copy (fork) has it already. The first attempt of a launcher is always a process of its own, and
so is each that follows something doubtful: the template only makes good cases faster.
"""

import functools
import os
import select
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from adam.contract.birth import GO, LONGEST, READY, Birth
from adam.contract.process import die_with_parent, taking_orphans_in

ENDED_S = 1.0
ANSWER_S = 5.0  # for a copy to be made: it takes milliseconds


def template_command(run: Path) -> list[str]:
    """The template's command line; the number of its socket comes behind it."""
    return [sys.executable, "-P", "-m", "adam.trainer", "--run", str(run), "--template"]


class Template:
    """A template process, started at once. None of its methods raises: where it fails there is none, and `ready` is False."""

    def __init__(self, command: list[str]) -> None:
        self._ready = False
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        with suppress(OSError):
            self._start(command)

    def _start(self, command: list[str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONSAFEPATH": "1"},
                pass_fds=(theirs.fileno(),),
                preexec_fn=functools.partial(die_with_parent, os.getpid()),  # noqa: PLW1509 - this process has one thread
            )

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def ready(self) -> bool:
        """True where it waits to be copied."""
        if not self.alive or self._socket is None:
            return False
        if not self._ready:
            with suppress(OSError):
                self._ready = self._socket.recv(LONGEST) == READY
        return self._ready

    def copy(self, birth: Birth, lease: int, log: int, words: int) -> tuple[int, int] | None:
        """(pid, gate) of a copy that is this process's own child and begins with `begin(gate)`; None where that failed.

        The gate's closing ends a copy that has not begun, so none can run of which the launcher does not know.
        """
        theirs = gate = -1
        try:
            theirs, gate = os.pipe()
            with taking_orphans_in():
                pid = self._ask(birth, (lease, log, words, theirs))
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)  # raises where it is not our child
        except (OSError, ValueError):
            if gate >= 0:
                os.close(gate)
            self.end()
            return None
        finally:
            if theirs >= 0:
                os.close(theirs)
        return pid, gate

    def _ask(self, birth: Birth, fds: tuple[int, ...]) -> int:
        """The pid of a copy. Raises OSError (BlockingIOError: no answer in time), ValueError."""
        if self._socket is None:
            raise ConnectionError("no template was started")
        socket.send_fds(self._socket, [msgspec.json.encode(birth)], list(fds))
        select.select([self._socket], [], [], ANSWER_S)
        return int(self._socket.recv(LONGEST))

    def end(self) -> None:
        """Kill it. Its copies live on."""
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):  # where the kernel holds it, it is the kernel's to end
                self._process.wait(ENDED_S)
            self._process = None


def begin(gate: int) -> None:
    """Let a copy begin."""
    with suppress(BrokenPipeError):  # it has been killed meanwhile, which its end tells
        os.write(gate, GO)
    os.close(gate)
