"""Stands in for the watchdog under a real supervisord: says `training` and does what `desired.json` says.

A file `mode` in the run directory makes it difficult: `deaf` beats and does nothing; `frozen` stands still after its first word;
`stubborn` is deaf and ignores SIGTERM; `finished` ends the run; `mute` says nothing at all.
"""

import argparse
import os
import signal
import time
from pathlib import Path

from adam.contract import schema
from adam.contract.clock import stamp
from adam.contract.paths import RunPaths
from adam.contract.process import start_ticks
from adam.contract.records import Desired, Status
from adam.contract.states import RunState
from adam.contract.supervisor import Supervisor


def write(paths: RunPaths, state: RunState, saves: int) -> None:
    now, pid = stamp(), os.getpid()
    status = Status(
        state=state, reason="fake", since=now, stamp=now, watchdog_pid=pid, watchdog_ticks=start_ticks(pid) or 0,
        saves_done=saves,
    )  # fmt: skip
    schema.save(paths.status, status, durable=False)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path)
    paths = RunPaths(parser.parse_args().run)
    mode = paths.root / "mode"
    difficult = mode.read_text() if mode.exists() else ""
    if difficult == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    beats = 0
    while True:
        desired = schema.load(paths.desired, Desired) or Desired()
        final = RunState.FINISHED if difficult == "finished" else None if desired.running else RunState.STOPPED
        if difficult != "mute":
            write(paths, final or RunState.TRAINING, desired.saves)
        while difficult in ("frozen", "mute"):
            time.sleep(60)
        beats += 1
        paths.beat.write_text(str(beats))
        if final and difficult not in ("deaf", "stubborn"):
            Supervisor(paths.supervisor_socket).shutdown()
            time.sleep(60)
        time.sleep(0.05)


main()
