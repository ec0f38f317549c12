"""`adamctl forge report` and `adamctl forge sample`: look at the data of a run, running or not."""

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from adam.daemon.run_of import run_paths

PAGE = "forge-report.html"


def report(arguments: argparse.Namespace) -> NoReturn:
    """Become what writes the page."""
    out = Path(arguments.out) if arguments.out else run_paths(arguments.run).root / PAGE
    _become(arguments, "report", "--out", str(out))


def sample(arguments: argparse.Namespace) -> NoReturn:
    """Become what prints documents."""
    options = ["-n", str(arguments.count)]
    options += [f"--source={arguments.source}"] if arguments.source else []
    options += [f"--dropped={arguments.dropped}"] if arguments.dropped is not None else []
    options += [f"--seed={arguments.seed}"] if arguments.seed is not None else []
    _become(arguments, "sample", *options, *(["--json"] if arguments.json else []))


def _become(arguments: argparse.Namespace, *words: str) -> NoReturn:
    command = [sys.executable, "-P", "-m", "adam.forge.look", "--run", str(run_paths(arguments.run).root), *words]
    os.execve(command[0], command, {**os.environ, "PYTHONSAFEPATH": "1"})
