"""What is left of training when its trainer dies again and again: the share of the time that went into steps which count.

    python -P benchmarks/goodput.py --run DIR [--every 30] [--minutes 10]

DIR is a run that is training. Its trainer gets SIGKILL every so many seconds. Goodput is the duration of the steps and validations that were
done for good, each counted once, through all the time that passed from the first kill to one period after the last; what is missing is
recovery, steps and validations that were done twice, and saves.
"""

import argparse
import os
import signal
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from adam.contract.clock import boottime_ns
from adam.contract.durable import log_lines
from adam.contract.lease import read_lease
from adam.contract.paths import RunPaths
from adam.contract.records import StepRow, decode_step


@dataclass(frozen=True)
class Found:
    """`steps`: done for good; `again`: rows that were done over; `gaps`: seconds from a kill to the beginning of the next step, where that
    step has no validation behind it."""

    seconds: float
    steps: int
    again: int
    steps_s: float
    validation_s: float
    again_s: float
    gaps: list[float]

    @property
    def goodput(self) -> float:
        return (self.steps_s + self.validation_s) / self.seconds


def judge(rows: list[StepRow], begin: float, end: float, kills: list[float]) -> Found:
    """What the rows of the log say of the time from `begin` to `end`, in seconds of CLOCK_BOOTTIME."""
    inside = [row for row in rows if begin <= row.boottime < end]
    newest = {row.step: row for row in sorted(rows, key=lambda row: row.attempt)}
    counting = [row for row in inside if newest[row.step] is row]
    again = [row for row in inside if newest[row.step] is not row]
    gaps = []
    for kill in kills:
        row = next((row for row in sorted(inside, key=lambda row: row.boottime) if row.boottime > kill), None)
        if row is not None and row.val_s is None:
            gaps.append(row.boottime - row.step_s - kill)
    return Found(
        seconds=end - begin,
        steps=len(counting),
        again=len(again),
        steps_s=sum(row.step_s for row in counting),
        validation_s=sum(validation_s(row, begin) for row in counting),
        again_s=sum(row.step_s + (row.val_s or 0.0) for row in again),
        gaps=gaps,
    )


def validation_s(row: StepRow, begin: float) -> float:
    """Seconds of a row's validation, but for what was before `begin`."""
    return min(row.val_s or 0.0, row.boottime - begin)


def read_rows(paths: RunPaths) -> list[StepRow]:
    return [decode_step(line, paths.steps) for _, line in log_lines(paths.steps)]


def kill_trainer(paths: RunPaths) -> bool:
    """False where there is none just now: it is dead already."""
    lease = read_lease(paths)
    if lease is None or lease.program != "trainer" or not lease.child_pid:
        return False
    try:
        os.kill(lease.child_pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def now_s() -> float:
    return boottime_ns() / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run that is training")
    parser.add_argument("--every", type=float, default=30.0, help="seconds between two kills")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long")
    arguments = parser.parse_args()
    paths = RunPaths(arguments.run)
    if not paths.steps.exists():
        sys.exit(f"{paths.root} has no step yet: start it with `adamctl up` and wait for the first")
    number = round(arguments.minutes * 60 / arguments.every)
    begin, kills = now_s(), []
    for count in tqdm(range(number), unit="kill", disable=None):
        time.sleep(max(0.0, begin + count * arguments.every - now_s()))
        at = now_s()
        if not kill_trainer(paths):
            sys.exit(f"no trainer lives at kill {count + 1}: is the run over, or was {arguments.every:g} s too short?")
        kills.append(at)
    time.sleep(max(0.0, begin + number * arguments.every - now_s()))
    found = judge(read_rows(paths), begin, begin + number * arguments.every, kills)
    print(
        f"{number} kills, one each {arguments.every:g} s, for {found.seconds / 60:.1f} min: goodput {found.goodput:.1%}"
    )
    print(f"  {found.steps} steps done for good: {found.steps_s / found.seconds:.1%}")
    print(f"  validations that count: {found.validation_s / found.seconds:.1%}")
    print(f"  {found.again} steps done over: {found.again_s / found.seconds:.1%}")
    middle, longest = statistics.median(found.gaps), max(found.gaps)
    print(
        f"  from a kill to the beginning of the next step ({len(found.gaps)} kills): median {middle:.2f} s, longest {longest:.2f} s"
    )


if __name__ == "__main__":
    main()
