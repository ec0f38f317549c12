"""Whoever of them dies, alone or in company: nobody is left behind, there are never two of a kind, and the losses stay those of a quiet run.

Random subsets of supervisord, watchdog, keeper, uploader and trainer get SIGKILL at once, at random moments, in a run that uploads.
Seven kills in the ordinary run; `bin/test --campaign -s tests/watchdog/test_kill_subsets.py` does 1,000, in 20 runs.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_trainer
import psutil
import pytest
from real_run import newest_logged, wait_for

from adam.contract.checkpoints import list_checkpoints, verify
from adam.contract.config import Upload
from adam.contract.process import processes_with, start_ticks

FAKE = Path(fake_trainer.__file__)
PARTS = ("supervisord", "watchdog", "keeper", "uploader", "trainer")
GONE_S = 2.0  # in which everybody below a killed process has ended
STEPS_BETWEEN = 5  # new ones, between two kills
KILLS_A_DOWN = 10
MODULES = {
    "supervisor.supervisord": "supervisord",
    "adam.watchdog": "watchdog",
    "adam.watchdog.keeper": "keeper",
    "adam.watchdog.uploader": "uploader",
    "adam.watchdog.upload_job": "upload",
    "adam.watchdog.launcher": "launcher",
}


def part_of(words: list[str]) -> str:
    """What a command line of the run's is; empty: none of those that there may be only one of."""
    if "-m" in words:
        return MODULES.get(words[words.index("-m") + 1], "")
    return "trainer" if str(FAKE) in words else ""


def census(box: Any) -> dict[str, list[int]]:
    """The living processes of the run by what they are. A child that has not become its own program yet is its parent still."""
    found: dict[str, list[int]] = defaultdict(list)
    for pid in processes_with("ADAM_SUPERVISED", str(box.paths.root)):
        try:
            process = psutil.Process(pid)
            part, parent = part_of(process.cmdline()), process.ppid()
            fledgling = part != "" and part_of(psutil.Process(parent).cmdline()) == part
        except psutil.NoSuchProcess:
            continue
        if part and not fledgling:
            found[part].append(pid)
    if box.process is not None and box.process.poll() is None:
        found["supervisord"].append(box.process.pid)  # it is given no ADAM_SUPERVISED: it gives it to others
    return found


class Sentry:
    """Looks for two of a kind all the time. Those of one look only are let pass: one of them was dying."""

    def __init__(self, box: Any) -> None:
        self._box, self._over = box, threading.Event()
        self._twins: set[tuple[str, int, int]] = set()
        self.found: list[str] = []
        self.looks = 0
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Sentry":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            seen = {(part, *sorted(pids)[:2]) for part, pids in census(self._box).items() if len(pids) > 1}
            self.found += [f"two of {part}: {one} and {other}" for part, one, other in seen & self._twins]
            self._twins, self.looks = seen, self.looks + 1


class Reaper:
    """Kills parts of a run, and sees to it that those below them are gone in time."""

    def __init__(self, box: Any, seed: int) -> None:
        self.box, self.chance = box, random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.longest_s = 0.0

    def step(self) -> int:
        return newest_logged(self.box.paths)

    def pids(self) -> dict[str, int]:
        """All five alive; waits for it."""

        def look() -> dict[str, int]:
            found = {part: pids[0] for part, pids in census(self.box).items() if part in PARTS}
            return found if len(found) == len(PARTS) else {}

        return wait_for("supervisord, watchdog, keeper, uploader and trainer", look)

    def kill_some(self) -> None:
        """A subset, in a random order, at a random moment."""
        best = self.step()
        pids = self.pids()
        wait_for(f"steps behind {best}", lambda: self.step() >= best + STEPS_BETWEEN)
        time.sleep(self.chance.random() * 0.05)
        chosen = self.chance.sample(PARTS, self.chance.randint(1, len(PARTS)))
        below = {pid: start_ticks(pid) for part in chosen for pid in family(pids[part])}
        for part in chosen:
            try:
                os.kill(pids[part], signal.SIGKILL)
            except ProcessLookupError:
                continue  # with its parent, just now
        self.counts.update(chosen)
        self.await_gone(below, "+".join(chosen))
        if "supervisord" in chosen:
            self.await_nobody("supervisord's death")
            self.box.up()

    def await_gone(self, below: dict[int, int | None], why: str) -> None:
        began = time.monotonic()

        def left() -> list[int]:
            if self.box.process is not None:
                self.box.process.poll()  # it is our child: its zombie is ours to bury
            return [pid for pid, ticks in below.items() if ticks is not None and start_ticks(pid) == ticks]

        wait_for(f"{why} were killed, and nobody below outlives them", lambda: not left(), GONE_S)
        self.longest_s = max(self.longest_s, time.monotonic() - began)

    def await_nobody(self, why: str) -> None:
        root = str(self.box.paths.root)
        wait_for(f"nobody is left behind {why}", lambda: not processes_with("ADAM_SUPERVISED", root), GONE_S)

    def down_and_up(self) -> None:
        """As a person: nobody is left when `adamctl down` returns."""
        environment = {**os.environ, "ADAM_RUN": str(self.box.paths.root), "PYTHONSAFEPATH": "1"}
        command = [sys.executable, "-P", "-m", "adam.daemon", "down"]
        process, self.box.process = self.box.process, None
        bury = threading.Thread(target=process.wait)  # down waits for supervisord's end, and a zombie has not ended
        bury.start()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0 and not processes_with("ADAM_SUPERVISED", str(self.box.paths.root)), done
        bury.join()
        self.counts["down"] += 1
        self.box.up()


def family(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    try:
        yield from (child.pid for child in psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return


def torment(box: Any, kills: int, seed: int) -> Reaper:
    """Kill, check, and compare with a run that nobody disturbed."""
    box.trainer["steps"] = 1_000_000
    box.checkpoint["every_steps"] = 10
    box.upload = Upload(target=f"file://{box.paths.root.parent}/far")
    box.configure(step_ms=10)
    reaper = Reaper(box, seed)
    box.up()
    with Sentry(box) as sentry:
        for number in range(kills):
            reaper.kill_some()
            if number % KILLS_A_DOWN == KILLS_A_DOWN - 1:
                reaper.pids()
                reaper.down_and_up()
        reaper.pids()
        reaper.down_and_up()
        reaper.pids()
        box.end()
    assert sentry.looks > kills and not sentry.found, sentry.found
    box.check_losses(reaper.step())
    for checkpoint in list_checkpoints(box.paths.checkpoints):
        verify(checkpoint)
    assert not any(box.paths.quarantine.glob("*")) and not box.events("quarantined", "failed")
    return reaper


@pytest.mark.timeout(300)
def test_seven_kills_of_random_subsets_leave_nobody_and_make_no_twin(box: Any) -> None:
    torment(box, 7, seed=3)


@pytest.mark.campaign
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("number", range(20))
def test_a_thousand_kills_of_random_subsets(box: Any, number: int) -> None:
    seed = int.from_bytes(os.urandom(4))
    reaper = torment(box, 50, seed)
    print(
        f"\nseed {seed}: {dict(reaper.counts)}; the last of them gone after {reaper.longest_s:.3f} s; {reaper.step()} steps"
    )
