"""`python -m adam.trainer --run DIR`: one attempt at training, as `run/plan.json` says. Started by the launcher."""

import argparse
import faulthandler
import functools
import gc
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from adam.contract.config_file import load_config
from adam.contract.errors import UsageError, run_main
from adam.contract.output import last_words, never_fail
from adam.contract.paths import RunPaths
from adam.contract.process import die_with_parent, let_be_traced, name_process
from adam.contract.states import Exit
from adam.trainer.host import prepare
from adam.trainer.template import await_birth


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="adam.trainer", description="One attempt at training. `adamctl up` starts it."
    )
    parser.add_argument("--run", type=Path, required=True, help="the run directory")
    parser.add_argument("--template", type=int, metavar="SOCKET", help="wait there to be copied (the launcher's)")
    arguments = parser.parse_args()
    prepare()
    if arguments.template is not None:
        load()
        if load_config(RunPaths(arguments.run).lock).trainer.gpus != 1:
            from adam.trainer import agent

            agent.load()
        if not await_birth(arguments.template):
            return int(Exit.OK)
    return attempt(arguments.run)


@functools.cache
def load() -> Callable[..., bool]:
    """`run_attempt`, and torch with it, which takes seconds: looking for garbage, of which an import makes none, took a sixth of them."""
    gc.disable()
    from adam.trainer.attempt import run_attempt

    gc.freeze()
    gc.enable()
    return run_attempt


def attempt(run: Path) -> int:
    """One attempt, from its lease to its exit code."""
    if "ADAM_TOKEN" not in os.environ:
        raise UsageError("the trainer needs the lease that a launcher gives it", "start the run with `adamctl up`")
    die_with_parent()
    let_be_traced()
    name_process("adam-trainer")
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # into the log, until the attempt has a file for stacks
    stop = StopFlag()
    run_attempt = load()
    from adam.trainer.place import ALONE, Place, ranks_of

    def one(place: Place) -> int:
        try:
            return int(Exit.OK if run_attempt(run, int(os.environ["ADAM_TOKEN"]), stop.asked, place) else Exit.STOPPED)
        except MemoryError as error:
            last_words(f"adam.trainer: out of memory: {str(error).splitlines()[0] if str(error) else 'host'}")
            return int(Exit.MEMORY)

    world = ranks_of(run)
    if world == 1:
        return one(ALONE)
    from adam.trainer.agent import run_ranks

    return run_ranks(world, one)


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
