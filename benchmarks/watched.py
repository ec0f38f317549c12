"""What the watchdog's presence costs training: step times while its processes run, and while they are stopped (SIGSTOP), in turn.

    python -P benchmarks/watched.py --run DIR [--pairs 40] [--block 4] [--load] [--out FILE.json]

DIR is a run that is training. The watchdog and all that it has started (keeper, uploader, probe, …) are stopped and go on together; none is
killed. A pair is two blocks, in random order. Printed: the median of the pairs' ratios (mean step time watched / alone) with its 95 %
confidence interval, and the same of the time from step to step, which has in it what is outside of steps too, validations excepted. Blocks
are far below every limit of silence (30 s). Adam's launcher and supervisord, which sleep, go on all the time.

The steps of a machine that is shared scatter by a tenth from one second to the next, which takes days of pairs for half a per cent. --load
has matrix products of a few milliseconds on all cores in place of the steps: pairs can be as short as half a second. Pause the run first
(`adamctl pause`): beside a trainer that computes, even one of the lowest priority, threads of a product meet on one core for long.
"""

import argparse
import json
import math
import os
import random
import signal
import statistics
import time
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tqdm import tqdm

from adam.contract.clock import boottime_ns
from adam.contract.durable import log_lines
from adam.contract.paths import RunPaths
from adam.contract.process import processes_with
from adam.contract.records import StepRow, decode_step

LONGEST_BLOCK_S = 10.0
SETTLE_S = 0.3  # behind each change, before a block begins
FEWEST = 3  # rows that a block needs
CONFIDENCE = 0.95
PRODUCT = 512  # rows and columns of a load's matrices: 3 ms on two cores


@dataclass(frozen=True)
class Block:
    """Means over the steps of a block, in seconds: of the step itself, and from the end of one step to the next one's."""

    steps: int
    step_s: float
    pace_s: float


def watchers(run: Path) -> list[int]:
    """The watchdog, first, and all that it has started; not the launcher, who would take them for frozen."""
    found: list[int] = []
    for pid in processes_with("ADAM_SUPERVISED", str(run)):
        with suppress(FileNotFoundError, ProcessLookupError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            module = next((word for word in words if word.split(".")[:2] == ["adam", "watchdog"]), "")
            if module and module != "adam.watchdog.launcher":
                found.insert(0 if module == "adam.watchdog" else len(found), pid)
    return found


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """They stand still within, and go on however it ends; the watchdog sees none of the others stopped."""
    try:
        send(pids, signal.SIGSTOP)
        yield
    finally:
        send(pids[::-1], signal.SIGCONT)


def send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # an upload ends by itself
            os.kill(pid, number)


def window(seconds: float) -> tuple[float, float]:
    """Let a block pass: its begin and its end, in seconds of CLOCK_BOOTTIME."""
    time.sleep(SETTLE_S)
    begin = boottime_ns() / 1e9
    time.sleep(seconds)
    return begin, boottime_ns() / 1e9


def both(run: Path, seconds: float) -> dict[str, tuple[float, float]]:
    """The windows of a pair, in random order."""
    pair = {}
    for kind in random.sample(("watched", "alone"), 2):
        with stopped(watchers(run) if kind == "alone" else []):
            pair[kind] = window(seconds)
    return pair


def measured(rows: list[StepRow], begin: float, end: float) -> Block | None:
    """None where there is too little in it, or the trainer was another one meanwhile."""
    within = [row for row in rows if begin <= row.boottime <= end]
    if len(within) <= FEWEST or within[0].attempt != within[-1].attempt:
        return None
    # The first step may have begun before the block. Around a validation, the pace is not the steps'.
    paces = [
        after.boottime - before.boottime
        for before, after in pairwise(within)
        if before.val_loss is None and after.val_loss is None
    ]
    steps = [row.step_s for row in within[1:]]
    return Block(len(steps), statistics.fmean(steps), statistics.fmean(paces)) if paces else None


def products(pipe: Connection) -> None:
    """Multiply matrices with all cores until the other side says something; then send when each product was done (CLOCK_BOOTTIME, s)."""
    import torch

    a, b, out = (torch.randn(PRODUCT, PRODUCT) for _ in range(3))
    done = array("d")
    pipe.send(None)
    while not pipe.poll():
        torch.mm(a, b, out=out)
        done.append(boottime_ns() / 1e9)
    pipe.send(done)


def under_load(paths: RunPaths, pairs: int, seconds: float) -> list[dict[str, float]]:
    """Seconds a product, of each pair."""
    ours, theirs = get_context("spawn").Pipe()
    load = get_context("spawn").Process(target=products, args=(theirs,), daemon=True)
    load.start()
    ours.recv()
    windows = [both(paths.root, seconds) for _ in tqdm(range(pairs))]
    ours.send(None)
    done: Any = ours.recv()
    load.join()
    return [{kind: seconds_each(done, *window) for kind, window in pair.items()} for pair in windows]


def seconds_each(done: Any, begin: float, end: float) -> float:
    """From the first that was done in a window to the last, of sorted times, a piece."""
    first, last = bisect_left(done, begin), bisect_left(done, end) - 1
    return float(done[last] - done[first]) / (last - first)


def median_with_interval(values: list[float]) -> tuple[float, float, float]:
    """(median, low, high): the narrowest pair of order statistics that holds the median with CONFIDENCE, whatever the distribution.

    That the median lies below the k-th smallest of n has the probability of fewer than k heads in n throws of a coin.
    """
    ordered, n = sorted(values), len(values)
    outside, k = 0.0, 0
    while k < n // 2 and (more := outside + 2 * math.comb(n, k) / 2**n) <= 1 - CONFIDENCE:
        outside, k = more, k + 1
    low = max(0, k - 1)
    return statistics.median(ordered), ordered[low], ordered[n - 1 - low]


def tell(pairs: list[dict[str, Block]]) -> None:
    for name, what in (("step_s", "a step"), ("pace_s", "from step to step")):
        times = {kind: [getattr(pair[kind], name) for pair in pairs] for kind in ("watched", "alone")}
        tell_of(what, times)


def tell_of(what: str, times: dict[str, list[float]]) -> None:
    ratios = [watched / alone for watched, alone in zip(times["watched"], times["alone"], strict=True)]
    middle, low, high = median_with_interval(ratios)
    medians = ", ".join(f"{kind} {1e3 * statistics.median(values):.2f} ms" for kind, values in times.items())
    cost = f"{100 * (middle - 1):+.2f} % ({100 * (low - 1):+.2f} to {100 * (high - 1):+.2f})"
    sums = 100 * (statistics.fmean(times["watched"]) / statistics.fmean(times["alone"]) - 1)
    print(f"{what:18} {medians}; watched costs {cost}, by the means {sums:+.2f} %, {len(ratios)} pairs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run that is training, or paused for --load")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--block", type=float, default=4.0, help=f"seconds, {LONGEST_BLOCK_S:.0f} at most")
    parser.add_argument("--load", action="store_true", help="a load of all cores in place of the run's own steps")
    parser.add_argument("--out", type=Path, help="where the pairs are written, as JSON")
    arguments = parser.parse_args()
    if not 0 < arguments.block <= LONGEST_BLOCK_S:
        parser.error(f"--block {arguments.block:g}: more than 0, and {LONGEST_BLOCK_S:.0f} at most")
    paths = RunPaths(arguments.run.resolve())
    if not watchers(paths.root):
        raise SystemExit(f"no watchdog of {paths.root} runs here: start it with `adamctl up`")
    if arguments.load:
        loads = under_load(paths, arguments.pairs, arguments.block)
        tell_of("a product", {kind: [pair[kind] for pair in loads] for kind in ("watched", "alone")})
        return
    windows = [both(paths.root, arguments.block) for _ in tqdm(range(arguments.pairs))]
    rows = [decode_step(line, paths.steps) for _, line in log_lines(paths.steps)]
    found = [{kind: measured(rows, *window) for kind, window in pair.items()} for pair in windows]
    pairs = [pair for pair in found if all(pair.values())]
    print(
        f"{len(found) - len(pairs)} pairs left out: fewer than {FEWEST} steps, a validation all along, or another trainer"
    )
    if not pairs:
        raise SystemExit("no pair is left: choose a longer --block")
    tell(pairs)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps([{kind: asdict(block) for kind, block in pair.items()} for pair in pairs]))


if __name__ == "__main__":
    main()
