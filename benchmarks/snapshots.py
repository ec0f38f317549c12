"""What snapshots cost training: blocks of steps with and without them, interleaved in one process, in wall-clock and CPU time.

    python -P benchmarks/snapshots.py --run DIR [--pairs 12] [--block 24]

DIR is a run whose data are ready and that is not running (its configuration is used, and none of its files is changed). In a block with
snapshots they are taken in memory at the pace that the trainer chooses, and one a block is committed to disk by a real keeper: many more than
the ten minutes between two checkpoints allow. CPU time is that of trainer and keeper together. Overhead: (with - without) / without.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from adam.trainer.host import prepare

prepare()  # before torch is imported, as the trainer does

import msgspec  # noqa: E402
import psutil  # noqa: E402

from adam.contract import schema  # noqa: E402
from adam.contract.config_file import load_config, write_lock  # noqa: E402
from adam.contract.lease import take_lease  # noqa: E402
from adam.contract.paths import RunPaths  # noqa: E402
from adam.contract.records import Plan  # noqa: E402
from adam.contract.shared import Control  # noqa: E402
from adam.trainer import loop as training  # noqa: E402
from adam.trainer.attempt import run_attempt  # noqa: E402
from adam.trainer.pace import Pace  # noqa: E402
from adam.watchdog.keeper_words import Commit  # noqa: E402

TOKEN = 1
SKIPPED = 8  # steps until everything is warm


class Keeper:
    """A real keeper process, who is asked by the benchmark instead of the watchdog."""

    def __init__(self, paths: RunPaths) -> None:
        command = [
            sys.executable,
            "-P",
            "-m",
            "adam.watchdog.keeper",
            "--run",
            str(paths.root),
            "--parent",
            str(os.getpid()),
        ]
        command += ["--keep-last", "2", "--milestone-every", "0"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        self._psutil = psutil.Process(self._process.pid)

    def commit(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(Commit()) + b"\n")
        self._process.stdin.flush()

    def cpu_s(self) -> float:
        times = self._psutil.cpu_times()
        return float(times.user + times.system)

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class Blocks(Pace):
    """The trainer's own pace in every second block, nothing in the others; notes the time at the ends of blocks."""

    def __init__(self, keeper: Keeper, block: int) -> None:
        super().__init__(0, 0)
        self._keeper, self._block = keeper, block
        self.ends: list[tuple[float, float]] = []
        self.taken = 0

    def due(self, step: int, control: Control, *, in_ram: bool) -> str:
        place = step - SKIPPED
        if place < 0:
            return super().due(step, control, in_ram=in_ram)
        number, rest = divmod(place, self._block)
        if rest == 0:
            self.ends.append((time.perf_counter(), time.process_time() + self._keeper.cpu_s()))
            if number % 2 == 0 and number > 0:
                self._keeper.commit()
        why = super().due(step, control, in_ram=in_ram) if number % 2 == 0 else ""
        self.taken += bool(why)
        return why


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run whose data are ready")
    parser.add_argument("--pairs", type=int, default=12, help="blocks with and without snapshots")
    parser.add_argument("--block", type=int, default=24, help="steps of a block")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        paths = copy_run(RunPaths(arguments.run), Path(place), SKIPPED + 2 * arguments.pairs * arguments.block + 2)
        keeper = Keeper(paths)
        blocks = Blocks(keeper, arguments.block)
        training.Pace = lambda *_: blocks  # type: ignore[assignment, misc]
        run_attempt(paths.root, TOKEN, lambda: False)
        keeper.end()
        shutil.rmtree(paths.ram, ignore_errors=True)
    report(blocks, arguments.block)


def copy_run(source: RunPaths, place: Path, steps: int) -> RunPaths:
    """A run of its own on the same data, that validates only at its end."""
    paths = RunPaths(place / "run")
    for directory in (paths.run, paths.logs, paths.checkpoints):
        directory.mkdir(parents=True)
    paths.shards.symlink_to(source.shards)
    paths.tokens.symlink_to(source.tokens)
    config = load_config(source.lock)
    trainer = msgspec.structs.replace(config.trainer, steps=steps, eval_every=0)
    write_lock(paths.lock, msgspec.structs.replace(config, trainer=trainer))
    schema.save(paths.plan, Plan(program="trainer", attempt=1, token=TOKEN))
    fd, _ = take_lease(paths, "trainer", TOKEN, 1)
    os.close(fd)
    return paths


def report(blocks: Blocks, block: int) -> None:
    spans = [(b[0] - a[0], b[1] - a[1]) for a, b in zip(blocks.ends, blocks.ends[1:], strict=False)]
    pairs = list(zip(spans[0::2], spans[1::2], strict=False))
    print(
        f"{blocks.taken} snapshots in {len(pairs)} blocks of {block} steps, the last pace one in {blocks.every_in_ram} steps"
    )
    for name, number in (("wall", 0), ("CPU", 1)):
        with_saves = statistics.median(pair[0][number] for pair in pairs)
        without = statistics.median(pair[1][number] for pair in pairs)
        ratio = statistics.median(pair[0][number] / pair[1][number] for pair in pairs)
        print(
            f"{name:5} a block: {with_saves:.3f} s with, {without:.3f} s without; "
            f"overhead {100 * (ratio - 1):+.2f} % (median of pairs)"
        )


if __name__ == "__main__":
    main()
