"""How long a run stands still when its trainer, its watchdog or both are killed: from the kill to the first new step.

    python -P benchmarks/recovery.py --run DIR [--kills 10]

DIR is a run that is training. Prints, for each kill of the trainer, where the time went (medians): noticed by the watchdog, trainer started,
torch imported, loaded, first step logged; then a killed and a frozen watchdog, who must be replaced while training goes on.
"""

import argparse
import json
import os
import random
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adam.contract.clock import boottime_ns
from adam.contract.durable import last_line
from adam.contract.paths import RunPaths
from adam.contract.records import Status, decode_step
from adam.contract.schema import load
from adam.contract.shared import Pulse, read_once
from adam.contract.states import Phase, RunState

STAGES = ("noticed", "started", "imported", "loaded", "first step")
LONGEST_S = 300.0


def now_s() -> float:
    return boottime_ns() / 1e9


def until(condition: Callable[[], Any]) -> Any:
    """The first true answer, asked every 2 ms."""
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.002)
    raise SystemExit(f"nothing happened for {LONGEST_S:.0f} s: is the run training?")


class Victim:
    """The run, and what its files say."""

    def __init__(self, root: Path) -> None:
        self.paths = RunPaths(root)

    def pulse(self) -> Pulse:
        return read_once(self.paths.pulse("0"), Pulse) or Pulse()

    def status(self) -> Status:
        found = load(self.paths.status, Status)
        if found is None:
            raise SystemExit(f"{self.paths.root} has no status: start it with `adamctl up`")
        return found

    def step(self) -> int:
        line = last_line(self.paths.steps)
        return decode_step(line, self.paths.steps).step if line else 0

    def event(self, kind: str, after_s: float) -> float | None:
        """When the first event of this kind after `after_s` was told, in seconds of CLOCK_BOOTTIME."""
        lines = self.paths.events.read_text().splitlines()[-50:]
        events = [json.loads(line) for line in lines]
        return next((e["boottime"] for e in events if e["kind"] == kind and e["boottime"] > after_s), None)

    def await_progress(self, best: int) -> Pulse:
        """The pulse of a trainer that has come further than step `best`: a kill before that counts as a failure in a row."""
        until(lambda: self.status().state == RunState.TRAINING and self.step() > best)
        return self.pulse()


def kill_trainer(victim: Victim, best: int) -> tuple[dict[str, float], int]:
    """(seconds from SIGKILL to each stage, steps that were lost)."""
    old = victim.await_progress(best)
    at, killed = victim.step(), now_s()
    os.kill(old.pid, signal.SIGKILL)
    new = until(lambda: (p := victim.pulse()).attempt > old.attempt and p)
    imported = until(lambda: (p := victim.pulse()).phase >= Phase.LOADING and p).phase_entered_ns / 1e9
    loaded = until(lambda: (p := victim.pulse()).phase >= Phase.TRAINING and p).phase_entered_ns / 1e9
    line = until(lambda: (row := row_of(victim)).attempt >= new.attempt and row)
    first = now_s()
    told = victim.event("crashed", killed), victim.event("started", killed)
    if None in told:
        raise SystemExit("the watchdog did not tell of the crash")
    times = dict(zip(STAGES, (*told, imported, loaded, first), strict=True))
    return {stage: at_s - killed for stage, at_s in times.items()}, at - line.step + 1


def row_of(victim: Victim) -> Any:
    line = last_line(victim.paths.steps)
    return decode_step(line or b"", victim.paths.steps)


def hurt_watchdog(victim: Victim, number: signal.Signals) -> float:
    """Seconds until another watchdog has taken over a run that trains on."""
    old, step, began = victim.status().watchdog_pid, victim.step(), now_s()
    os.kill(old, number)
    until(lambda: victim.status().watchdog_pid not in (0, old))
    took = now_s() - began
    until(lambda: victim.step() > step)
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run that is training")
    parser.add_argument("--kills", type=int, default=10, help="how often the trainer is killed")
    arguments = parser.parse_args()
    victim = Victim(arguments.run)
    found, best = [], victim.step()
    for _ in range(arguments.kills):
        best += random.randrange(2, 20)
        times, lost = kill_trainer(victim, best)
        best = max(best, victim.step() + lost)
        found.append((times, lost))
        print(
            "  ".join(f"{stage} {seconds:.2f} s" for stage, seconds in times.items()), f" lost {lost} steps", flush=True
        )
    print("median, and longest:")
    for stage in STAGES:
        seconds = [times[stage] for times, _ in found]
        print(f"  {stage:12} {statistics.median(seconds):.2f} s  {max(seconds):.2f} s")
    print(f"  {'steps lost':12} {statistics.median(lost for _, lost in found):.0f}  {max(lost for _, lost in found)}")
    victim.await_progress(victim.step())
    print(f"watchdog killed: another after {hurt_watchdog(victim, signal.SIGKILL):.1f} s")
    print(f"watchdog frozen: another after {hurt_watchdog(victim, signal.SIGSTOP):.1f} s")


if __name__ == "__main__":
    main()
