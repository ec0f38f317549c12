"""The watchdog: `python -P -m adam.watchdog --run DIR`."""

import argparse
import sys
from pathlib import Path

from adam.contract.config_file import load_config
from adam.contract.errors import run_main
from adam.contract.output import never_fail
from adam.contract.paths import RunPaths
from adam.contract.process import die_with_parent
from adam.watchdog.log import open_log
from adam.watchdog.loop import Leaving, Watchdog
from adam.watchdog.parent import supervised, supervisor_pid


def main() -> int:
    parser = argparse.ArgumentParser(prog="watchdog", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="the run directory")
    paths = RunPaths(parser.parse_args().run)
    if supervised(paths):
        die_with_parent(supervisor_pid(paths))
    leaving = Leaving()
    log = open_log(paths.log("watchdog"))
    config = load_config(paths.lock)
    return Watchdog(paths, config, log, sys.stderr.fileno()).run(leaving)


if __name__ == "__main__":
    never_fail()
    sys.exit(run_main("watchdog", main))
