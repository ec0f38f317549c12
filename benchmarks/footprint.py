"""What Adam costs beside the trainer: memory (PSS) and CPU of each process of a run, the trainer's and its template's apart.

    python benchmarks/footprint.py --run DIR [--seconds 60]

CPU is user and system time over the interval, in per cent of one core; PSS shares a shared page among those who map it. The uploader's has
the uploads in it that ended meanwhile, processes of their own. What a run does not have (uploads, alerts, sinks, a GPU) is not listed.
"""

import argparse
import time
from pathlib import Path

import psutil

from adam.contract.process import processes_with

PARTS = (
    "supervisor.supervisord",
    "adam.watchdog.launcher",
    "adam.watchdog.keeper",
    "adam.watchdog.probe",
    "adam.watchdog.uploader",
    "adam.watchdog.upload_job",
    "adam.watchdog.alerter",
    "adam.watchdog",
)
SINK = "adam.watchdog.sink"


def part_of(process: psutil.Process) -> str:
    command = process.cmdline()
    if SINK in command:
        return f"{SINK} {command[command.index(SINK) + 1]}"
    return next((part for part in PARTS if part in command), "")


def cpu_s(part: str, process: psutil.Process) -> float:
    times = process.cpu_times()
    jobs = times.children_user + times.children_system if part == "adam.watchdog.uploader" else 0.0
    return float(times.user + times.system + jobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run that is running")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long CPU time is counted")
    arguments = parser.parse_args()
    found = [psutil.Process(pid) for pid in processes_with("ADAM_SUPERVISED", str(arguments.run.resolve()))]
    watched = {part_of(process): process for process in found if part_of(process)}
    before = {part: cpu_s(part, process) for part, process in watched.items()}
    time.sleep(arguments.seconds)
    total_memory = total_cpu = 0.0
    for part, process in watched.items():
        if not process.is_running():  # the probe, where it has found no NVIDIA driver; an upload
            print(f"{part:26} has ended")
            continue
        memory = process.memory_full_info().pss / 1e6
        cpu = 100 * (cpu_s(part, process) - before[part]) / arguments.seconds
        total_memory, total_cpu = total_memory + memory, total_cpu + cpu
        print(f"{part:26} {memory:6.1f} MB  {cpu:5.2f} %")
    print(f"{'together':26} {total_memory:6.1f} MB  {total_cpu:5.2f} % of a core over {arguments.seconds:.0f} s")


if __name__ == "__main__":
    main()
