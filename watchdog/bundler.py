"""Has a bundle made when something hangs, by a process that is given a time and then killed; nothing here waits for it."""

import os
import subprocess
import sys

from adam.contract.paths import RunPaths
from adam.watchdog.policy_words import Collect

LONGEST_S = 20.0


class Bundler:
    """At most one bundle at a time: while one is stuck on a process that does not die, there is nothing more to see."""

    def __init__(self, paths: RunPaths, stderr: int) -> None:
        self._paths, self._stderr = paths, stderr
        self._process: subprocess.Popen[bytes] | None = None
        self._until = 0.0
        self.trouble = ""  # why the last bundle could not be begun

    @property
    def busy(self) -> bool:
        return self._process is not None

    def collect(self, action: Collect, gpus: bytes, now: float) -> None:
        """Begin. `gpus` are the newest readings, as JSON; a few hundred bytes, which a pipe takes at once."""
        self.attend(now)
        if self.busy:
            return
        try:
            self._start(action, gpus)
            self._until, self.trouble = now + LONGEST_S, ""
        except OSError as error:
            self.trouble = f"{action.name} could not be gathered: {error.strerror}"

    def _start(self, action: Collect, gpus: bytes) -> None:
        stacks = self._paths.log("stacks")
        words = {
            "--run": self._paths.root,
            "--name": action.name,
            "--token": action.token,
            "--pid": action.pid,
            "--stacks-from": stacks.stat().st_size if stacks.exists() else 0,
            "--parent": os.getpid(),
        }
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "adam.watchdog.bundle",
                *(str(part) for item in words.items() for part in item),
            ],
            stdin=subprocess.PIPE,
            stdout=self._stderr,
            stderr=self._stderr,
            process_group=0,
            bufsize=0,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(gpus)
        self._process.stdin.close()

    def attend(self, now: float) -> None:
        """See whether it is done; kill one that takes too long. A killed one that stands in the kernel stays ours until it dies."""
        if self._process is None:
            return
        if self._process.poll() is not None:
            self._process = None
        elif now > self._until:
            self._process.kill()
