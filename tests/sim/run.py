"""Simulate a run over years: the real policy over models of everything else.

python -P tests/sim/run.py --years 20 --seed 1
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from sim_box import World
from simulation import Summary, simulate


def words(summary: Summary) -> str:
    counts = {
        "steps done again": summary.again,
        "faults": summary.faults,
        "restarts by class": summary.restarts,
        "final states": summary.finals,
    }
    able = sum(summary.lost.values()) / (1 - summary.goodput)
    lines = [
        f"days simulated      {summary.days:,.1f}",
        f"goodput             {summary.goodput:.4%} of the time in which training could go on",
        *(f"  {name:25}{seconds / able:.4%}" for name, seconds in summary.lost.items()),
        f"share of all time   {summary.share:.2%}",
        *(
            f"  {name:25}{seconds / 86400 / summary.days:.3%}"
            for name, seconds in sorted(summary.apart.items(), key=lambda item: -item[1])
        ),
        f"longest outage      {summary.longest_outage_s:,.0f} s",
        f"hangs               {summary.hangs}, none of them false",
        f"people called       {summary.stuck} times: the run is stuck",
        f"uploads             {summary.uploads:,}",
        f"decisions           {summary.decisions:,}",
        f"policy's memory     {summary.memory_bytes:,} bytes",
        f"days a CPU-minute   {summary.days_a_minute:,.0f}",
    ]
    lines += [
        f"{name:19} " + ", ".join(f"{key} {value}" for key, value in found.items()) for name, found in counts.items()
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--years", type=float, default=3.0, help="that the steps take if nothing happens")
    parser.add_argument("--seed", type=int, default=0, help="of the faults and of the back-off's jitter")
    parser.add_argument("--faults-a-day", type=float, default=1.0, help="of all kinds together")
    arguments = parser.parse_args()
    print(words(simulate(World(days=365.0 * arguments.years, faults_a_day=arguments.faults_a_day), arguments.seed)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
