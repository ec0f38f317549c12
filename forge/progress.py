"""How far the forge is: in its pulse for the watchdog, and on the terminal for people."""

import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from adam.contract.clock import boottime_ns
from adam.contract.durable import human_bytes
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
        stream: the terminal, or what takes the lines.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        paths: RunPaths,
        attempt: int,
        token: int,
        *,
        show: bool,
        stream: TextIO = sys.stderr,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pulse: SharedWord[Pulse] = SharedWord(paths.pulse("forge"), Pulse, write=True)
        self._value = Pulse(pid=os.getpid(), attempt=attempt, token=token)
        self._fields: dict[str, int] = {}
        self._count, self._done, self._last = 0, 0, 0.0
        self._show, self._stream, self._clock = show, stream, clock
        self._phase, self._facts, self._said = Facts("", 0, clock()), "", 0.0
        self._bar: Any = None
        if show and stream.isatty():
            self._bar = _make_bar(stream)

    def enter(self, phase: Phase, total: int) -> None:
        """Begin a phase of `total` bytes; 0: nobody knows how many."""
        self._fields = {"phase": phase, "phase_entered_ns": boottime_ns(), "total": total}
        self._done, self._said = 0, self._clock()
        self._phase = Facts(NAMES.get(phase, ""), total, self._said)
        if self._bar is not None:
            for task in list(self._bar.task_ids):
                self._bar.remove_task(task)
            self._bar.add_task(self._phase.name, total=total or None, facts="")
            self._bar.start()
        elif self._show:
            self._say(f"{self._phase.name} ({human_bytes(total)})" if total else self._phase.name)
        self._write(0)

    def at(self, done: int) -> None:
        """`done` bytes of the phase; cheap enough to be called for each document."""
        self._done = done
        self._phase.begun_at(done, self._clock)
        self.tick()

    def counted(self, documents: int, dropped: int = 0) -> None:
        """So many more documents of the phase, and how many of these were dropped."""
        self._phase.documents += documents
        self._phase.dropped += dropped

    @property
    def due(self) -> bool:
        """Whether a sign of life would be written: what costs something to say is said only then."""
        return time.monotonic() - self._last >= BEAT_S

    def tick(self) -> None:
        """A sign of life of work that counts nothing: hashing, cutting back."""
        if self.due:
            self._last = time.monotonic()
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
        now = self._clock()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, facts=self._phase.words(done, now))
        elif self._show and now - self._said > PLAIN_LINE_S:
            self._said = now
            size = f"{human_bytes(done)} of {human_bytes(self._phase.total)}" if self._phase.total else ""
            self._say("  " + ", ".join(filter(None, (size, self._phase.words(done, now)))))

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._pulse.close()


class Facts:
    """What people are told of a phase.

    Args:
        total: its bytes, 0 where nobody knows.
        now: when it was entered.
    """

    def __init__(self, name: str, total: int, now: float) -> None:
        self.name, self.total = name, total
        self.documents = self.dropped = 0
        self._since, self._base = now, -1

    def begun_at(self, done: int, clock: Callable[[], float]) -> None:
        """The first place that is told is where this start goes on from: it was not reached in this start's time."""
        if self._base < 0:
            self._base, self._since = done, clock()

    def words(self, done: int, now: float) -> str:
        """`12,345 documents, 67 dropped, 8.1 MB/s, 2 min left`: those of it that are known."""
        parts = [f"{self.documents:,} documents"] if self.documents else []
        parts += [f"{self.dropped:,} dropped"] if self.dropped else []
        moved, seconds = done - max(0, self._base), now - self._since
        if moved > 0 and seconds > 0:
            rate = moved / seconds
            parts.append(f"{human_bytes(rate)}/s")
            if self.total:
                parts.append(f"{_duration(max(0.0, self.total - done) / rate)} left")
        return ", ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _make_bar(stream: TextIO) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TextColumn("{task.fields[facts]}"))
    return Progress(*columns, console=Console(file=stream))
