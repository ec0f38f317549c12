"""`adamctl doctor`: what of this machine and this run is in the way of training, each with what to do about it."""

import argparse

from adam.contract.states import Exit
from adam.daemon.doctor_gpu import check_gpu_wait
from adam.daemon.doctor_machine import check_machine
from adam.daemon.doctor_memory import check_memory
from adam.daemon.doctor_run import check_run
from adam.daemon.doctor_sinks import check_power, check_sinks
from adam.daemon.doctor_words import Mark
from adam.daemon.run_of import run_paths


def run(arguments: argparse.Namespace) -> int:
    """Print a line for each check. Exit.FAILED where training would not work."""
    marks = []
    paths = run_paths(arguments.run)
    of_the_run = (check_run(paths), check_sinks(paths), check_power(paths), check_gpu_wait(paths), check_memory(paths))
    for findings in (*of_the_run, check_machine()):
        for finding in findings:
            print(finding.line(), flush=True)
            marks.append(finding.mark)
    return Exit.FAILED if Mark.BAD in marks else Exit.OK
