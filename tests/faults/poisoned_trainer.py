"""The real trainer, to which one sample is poison: the loss of whatever batch holds the data at POSITION is not a number.

python poisoned_trainer.py --poison POSITION --run DIR
"""

import argparse
import sys

from adam.contract.errors import run_main
from adam.trainer.__main__ import main
from adam.trainer.host import prepare
from adam.trainer.order import DataOrder


def poison(position: int) -> None:
    from adam.trainer.model.lm import MambaLM

    sample_at, loss, drawn = DataOrder.sample_at, MambaLM.loss, []

    def watched(self: DataOrder, asked: int) -> int:
        if asked == position:
            drawn.append(asked)
        return sample_at(self, asked)

    def poisoned(self: MambaLM, *batch: object) -> object:
        found = loss(self, *batch)
        if drawn and self.training:
            drawn.clear()
            return found * float("nan")
        return found

    DataOrder.sample_at, MambaLM.loss = watched, poisoned


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--poison", type=int, required=True)
    arguments, sys.argv[1:] = parser.parse_known_args()
    prepare()  # before torch is imported
    poison(arguments.poison)
    sys.exit(run_main("adam.trainer", main))
