"""Which run a command means."""

import argparse
from pathlib import Path

from adam.contract.errors import NotRunningError
from adam.contract.paths import RunPaths, find_run


def run_paths(named: str | None) -> RunPaths:
    """The paths of the run that `--run` names, or that is meant without it. Links are followed: a run has one name."""
    return RunPaths(find_run(named).resolve())


def run_of(arguments: argparse.Namespace) -> RunPaths:
    """The paths of a run that was started at least once. Raises NotRunningError where there is none."""
    paths = run_paths(arguments.run)
    if not paths.run.is_dir():
        raise NotRunningError(
            f"there is no run at {paths.root}", "start one with `adamctl up`, or name another with --run"
        )
    return paths


def shown(path: Path) -> str:
    """A path as people type it: from the current directory where it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) and path != here else str(path)
