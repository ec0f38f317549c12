"""How far the forge is: in its pulse for the watchdog, and on the terminal for people."""

import os
import sys
import time
from typing import Any

from adam.contract.clock import boottime_ns
from adam.contract.paths import RunPaths
from adam.contract.shared import Pulse, SharedWord
from adam.contract.states import Phase

NAMES = {
    Phase.READING: "reading sources",
    Phase.LEARNING: "learning the tokenizer",
    Phase.ENCODING: "encoding tokens",
    Phase.ENDING: "done",
}
BEAT_S = 0.1
PLAIN_LINE_S = 10.0


class Progress:
    """Called from the work itself, so that a pulse that moves means that the forge does.

    Args:
        show: draw a bar on a terminal, or write plain lines where there is none.
    """

    def __init__(self, paths: RunPaths, attempt: int, token: int, *, show: bool) -> None:
        self._pulse: SharedWord[Pulse] = SharedWord(paths.pulse("forge"), Pulse, write=True)
        self._value = Pulse(pid=os.getpid(), attempt=attempt, token=token)
        self._fields: dict[str, int] = {}
        self._count, self._done, self._last, self._said = 0, 0, 0.0, 0.0
        self._show = show
        self._bar: Any = None
        if show and sys.stderr.isatty():
            self._bar = _make_bar()

    def enter(self, phase: Phase, total: int) -> None:
        """Begin a phase of `total` bytes."""
        self._fields = {"phase": phase, "phase_entered_ns": boottime_ns(), "total": total}
        self._done, self._said = 0, time.monotonic()
        if self._bar is not None:
            for task in list(self._bar.task_ids):
                self._bar.remove_task(task)
            self._bar.add_task(NAMES.get(phase, ""), total=total or None)
            self._bar.start()
        elif self._show:
            print(
                f"{NAMES.get(phase, '')} ({total / 1e6:.1f} MB)" if total else NAMES.get(phase, ""),
                file=sys.stderr,
                flush=True,
            )
        self._write(0)

    def at(self, done: int) -> None:
        """`done` bytes of the phase; cheap enough to be called for each document."""
        self._done = done
        self.tick()

    def tick(self) -> None:
        """A sign of life of work that counts nothing: hashing, cutting back."""
        now = time.monotonic()
        if now - self._last >= BEAT_S:
            self._last = now
            self._write(self._done)

    def _write(self, done: int) -> None:
        self._count += 1
        self._pulse.write(
            Pulse(
                pid=self._value.pid,
                attempt=self._value.attempt,
                token=self._value.token,
                progress=self._count,
                progress_ns=boottime_ns(),
                done=done,
                step=done,
                **self._fields,
            )
        )
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done)
        elif self._show and time.monotonic() - self._said > PLAIN_LINE_S:
            self._said = time.monotonic()
            print(f"  {done / 1e6:.1f} MB", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._pulse.close()


def _make_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=Console(stderr=True))
