"""`python -m adam.trainer --run DIR`: one attempt at training, as `run/plan.json` says. Started by the launcher."""

import argparse
import faulthandler
import gc
import os
import signal
import sys
from pathlib import Path

from adam.contract.errors import UsageError, run_main
from adam.contract.output import last_words, never_fail
from adam.contract.process import die_with_parent, let_be_traced
from adam.contract.states import Exit
from adam.trainer.host import prepare


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="adam.trainer", description="One attempt at training. `adamctl up` starts it."
    )
    parser.add_argument("--run", type=Path, required=True, help="the run directory")
    arguments = parser.parse_args()
    if "ADAM_TOKEN" not in os.environ:
        raise UsageError("the trainer needs the lease that a launcher gives it", "start the run with `adamctl up`")
    die_with_parent()
    let_be_traced()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # into the log, until the attempt has a file for stacks
    prepare()
    stop = StopFlag()
    gc.disable()  # nothing that an import makes is garbage: to look through it again and again took a sixth of the time
    from adam.trainer.attempt import run_attempt  # imports torch: seconds

    gc.freeze()
    gc.enable()
    try:
        return int(Exit.OK if run_attempt(arguments.run, int(os.environ["ADAM_TOKEN"]), stop.asked) else Exit.STOPPED)
    except MemoryError as error:
        last_words(f"adam.trainer: out of memory: {str(error).splitlines()[0] if str(error) else 'host'}")
        return int(Exit.MEMORY)


class StopFlag:
    """SIGTERM and SIGINT set a flag; the loop acts on it at the next micro-step boundary."""

    def __init__(self) -> None:
        self._set = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: object) -> None:
        del number, frame
        self._set = True

    def asked(self) -> bool:
        return self._set


if __name__ == "__main__":
    never_fail()
    sys.exit(run_main("adam.trainer", main))
