"""`adamctl forge`: build or check a run's data in the foreground, as the policy would do it."""

import argparse
import os
import sys

from adam.contract.config_file import load_config, write_lock
from adam.contract.durable import replace_file
from adam.contract.paths import RunPaths
from adam.daemon.checks import check_source, check_writable
from adam.daemon.processes import refuse_if_running
from adam.daemon.run_of import run_paths
from adam.daemon.settle import settle
from adam.daemon.up import up_lock, wanted_config


def run(arguments: argparse.Namespace) -> int:
    """Become the forge. Raises BusyError while the run is running."""
    paths = run_paths(arguments.run)
    if arguments.action:  # a question: it needs no run that was begun, and changes nothing
        options = [{"sources": "--sources", "check": "--reach"}[arguments.action]]
    else:
        if not arguments.check:
            prepare(paths, rebuild=arguments.rebuild)
        elif not paths.lock.exists():
            load_config(paths.config)  # says how to get one
        options = [f"--{name}" for name in ("rebuild", "check") if getattr(arguments, name)]
    command = [sys.executable, "-P", "-m", "adam.forge", "--run", str(paths.root), *options]
    os.execve(command[0], command, {**os.environ, "PYTHONSAFEPATH": "1"})


def prepare(paths: RunPaths, *, rebuild: bool) -> None:
    """Settle and write the configuration that the forge reads."""
    refuse_if_running(paths)
    new, text = wanted_config(paths, None)
    config, _ = settle(paths, new, rebuild_data=rebuild)
    check_writable(paths)
    if rebuild or not paths.shards_manifest.exists():
        for source in config.forge.sources:
            check_source(paths, source)
    with up_lock(paths):
        refuse_if_running(paths)
        paths.logs.mkdir(exist_ok=True)
        if text is not None:
            replace_file(paths.config, text.encode())
        write_lock(paths.lock, config)
