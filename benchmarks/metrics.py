"""What long runs cost those who read `metrics.csv`: widening an older file, and each sink from the first row to the last.

    python -P benchmarks/metrics.py [--rows 150000]

Sinks are processes, as in a run; CPU is their user and system time, PSS what they hold when they have caught up.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from adam.contract.config import Config, Sinks
from adam.contract.config_file import write_lock
from adam.contract.metrics import COLUMNS, Work, gpu_cells, header, row
from adam.contract.paths import RunPaths
from adam.contract.records import Gpu, StepRow
from adam.watchdog.widen import widen

OLD = tuple(name for name in COLUMNS if name not in ("mfu", "seq_len", "entropy", "logits_norm", "gpu_power_limit_w"))
PORT = 19464


def fill(path: Path, count: int, columns: tuple[str, ...]) -> None:
    gpu = Gpu(0, "H200", 61, 26, 650.5, 700.0, 97, 10**11, 15 * 10**10, memory_temperature_c=72, clocks=())
    cells = {
        "phase": "training",
        "cpu_percent": "12.5",
        "ram_gb": "33.25",
        "disk_free_gb": "812.50",
        **gpu_cells((gpu,)),
    }
    work = Work(65_536, 2048)
    with path.open("wb") as file:
        file.write(header(columns) + b"\n")
        for number in range(1, count + 1):
            step = StepRow(
                attempt=1, step=number, tokens=number * 65_536, first_sample=32 * number, end_sample=32 * number + 32,
                loss=2.0 + 1 / number, grad_norm=0.7 + 1 / number, lr=3e-4, step_s=2.4 + 1 / number, data_wait_s=0.001, wall=1.8e9 + number,
                boottime=0.0,
            )  # fmt: skip
            file.write(row(step, work, cells, columns=columns) + b"\n")


def time_widening(path: Path, count: int) -> None:
    fill(path, count, OLD)
    began = time.perf_counter()
    widen(path, COLUMNS)
    print(
        f"widening {count:,} rows, {path.stat().st_size / 1e6:.1f} MB, fsync and all: {time.perf_counter() - began:.2f} s"
    )


def time_sink(paths: RunPaths, name: str, count: int) -> None:
    """From no row to all: the sink's second word comes with its second batch, so it is looked at when it is idle."""
    command = [sys.executable, "-P", "-m", "adam.watchdog.sink", name, "--run", str(paths.root)]
    with subprocess.Popen(
        [*command, "--parent", str(os.getpid())], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as sink:
        process, before, idle = psutil.Process(sink.pid), -1.0, 0
        while idle < 4:
            time.sleep(0.5)
            used = sum(process.cpu_times()[:2])
            idle = idle + 1 if used - before < 0.03 and used > 0.2 else 0
            before = used
        memory = process.memory_full_info().pss / 1e6
        print(f"{name:12} {before:6.1f} s of CPU for {count:,} rows, then {memory:.0f} MB")
        sink.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=150_000, help="of metrics.csv")
    count = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        paths = RunPaths(Path(folder))
        paths.run.mkdir()
        sinks = Sinks(prometheus_port=PORT, tensorboard=True, trackio="benchmark")
        write_lock(paths.lock, Config(sinks=sinks))
        time_widening(paths.metrics, count)
        for name in sinks.wanted:
            time_sink(paths, name, count)


if __name__ == "__main__":
    main()
