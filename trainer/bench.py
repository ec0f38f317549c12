"""`python -m adam.trainer.bench`: what training takes on this machine, as one line of JSON. Started by `adamctl bench`.

Nothing of a run is touched: what is written lies in a directory of its own, which whoever starts this removes.
"""

import argparse
import sys
from pathlib import Path

import msgspec

from adam.contract.errors import run_main
from adam.contract.output import last_words
from adam.contract.process import die_with_parent
from adam.contract.states import Exit
from adam.trainer.host import prepare


def main() -> int:
    parser = argparse.ArgumentParser(prog="adam.trainer.bench", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="the configuration to train by")
    parser.add_argument("--place", type=Path, required=True, help="an empty directory, on the disk of the checkpoints")
    parser.add_argument("--seconds", type=float, required=True, help="of updates that are measured")
    arguments = parser.parse_args()
    die_with_parent()
    prepare()
    from adam.trainer.bench_measure import measure

    try:
        found = measure(arguments.config, arguments.place, arguments.seconds)
    except MemoryError as error:
        last_words(f"adam.trainer.bench: out of memory: {error}")
        return int(Exit.MEMORY)
    print(msgspec.json.encode(found).decode())
    return 0


if __name__ == "__main__":
    sys.exit(run_main("adam.trainer.bench", main))
