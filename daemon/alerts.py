"""`adamctl alerts`: a test alert, sent by the alerter itself."""

import argparse
import os
import subprocess
import sys

from adam.contract.errors import UsageError
from adam.daemon.run_of import run_paths


def run(arguments: argparse.Namespace) -> int:
    """Send it, and say how that went; exit code 1 where a target did not take it."""
    paths = run_paths(arguments.run)
    if not (paths.lock.exists() or paths.config.exists()):
        raise UsageError(f"there is no configuration in {paths.root}", "name a run with --run")
    command = [sys.executable, "-P", "-m", "adam.watchdog.alerter", "--run", str(paths.root), "--test"]
    return subprocess.run(command, env={**os.environ, "PYTHONSAFEPATH": "1"}, check=False).returncode
