"""The pulse as the training loop writes it, and the control word as it reads it."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from adam.contract.clock import boottime_ns
from adam.contract.paths import RunPaths
from adam.contract.shared import Control, Pulse, SharedWord
from adam.contract.states import Phase

PAUSE_POLL_S = 0.2


class Heart:
    """Written by the loop itself, never by a thread: a pulse that moves means that training does."""

    def __init__(self, paths: RunPaths, attempt: int, token: int, rank: int = 0) -> None:
        self._pulse: SharedWord[Pulse] = SharedWord(paths.pulse(str(rank)), Pulse, write=True)
        self._control_path = paths.control
        self._control: SharedWord[Control] | None = None
        self._followed: Control | None = None
        self._token = token
        self._phase = Phase.IMPORTING
        self._entered = boottime_ns()
        self._count = 0
        self.paused_s = 0.0  # in all: not part of any step's time
        self._fields = {"pid": os.getpid(), "attempt": attempt, "token": token}
        self.beat()

    def beat(self, **fields: int) -> None:
        """Something was done: `fields` are those of Pulse that have changed."""
        self._fields.update(fields)
        self._count += 1
        self._pulse.write(
            Pulse(
                phase=self._phase,
                phase_entered_ns=self._entered,
                progress_ns=boottime_ns(),
                progress=self._count,
                **self._fields,
            )
        )

    def enter(self, phase: Phase) -> None:
        if phase != self._phase:
            self._phase, self._entered = phase, boottime_ns()
        self.beat()

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """Enter `phase`, and the one before again at the end."""
        before = self._phase
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)

    def control(self) -> Control:
        """What this rank does: what the watchdog wants, or what all ranks have agreed to `follow`."""
        return self.asked() if self._followed is None else self._followed

    def follow(self, word: Control) -> None:
        """Do as `word` says, whatever the file says meanwhile: where there are several ranks, they see it at different times."""
        self._followed = word

    def asked(self) -> Control:
        """What the watchdog wants now; words for another attempt, or from before it, want nothing."""
        if self._control is None:
            try:
                self._control = SharedWord(self._control_path, Control, write=False)
            except FileNotFoundError:
                return Control()
        word = self._control.read()
        return word if word is not None and word.token == self._token else Control()

    def wait_while_paused(self, meanwhile: Callable[[], None]) -> None:
        """Stand still, beating, while the control word says pause and not stop; `meanwhile` is called at each beat."""
        if not self.control().pause:
            return
        began = time.perf_counter()
        with self.during(Phase.PAUSED):
            while (word := self.control()).pause and not word.stop:
                meanwhile()
                time.sleep(PAUSE_POLL_S)
                self.beat()
        self.paused_s += time.perf_counter() - began
