"""The checks of `adamctl doctor` about the sinks of metrics, and about power limits that a run has left lowered."""

import importlib.util
import socket
import sys
from collections.abc import Iterator

from adam.contract import schema
from adam.contract.clock import boot_id
from adam.contract.config import Config
from adam.contract.config_file import load_config
from adam.contract.errors import AdamError, DataError
from adam.contract.paths import RunPaths
from adam.contract.records import PowerFile
from adam.contract.sinks import LOCALHOST, MODULES, PACKAGES, wheres
from adam.daemon.doctor_words import Finding, ok, warn
from adam.daemon.processes import read_status, watchdog_lives


def check_sinks(paths: RunPaths) -> Iterator[Finding]:
    """Whether each sink that is asked for has its package, and its port. Nothing where the configuration can't be read."""
    source = paths.lock if paths.lock.exists() else paths.config
    try:
        config = load_config(source) if source.exists() else Config()
    except AdamError:
        return  # the check of the disk says so
    for name, where in wheres(paths, config).items():
        if importlib.util.find_spec(MODULES[name]) is None:
            package = PACKAGES[name]
            yield warn(
                f"the sink {name} needs the package {package}, which is missing",
                f"{sys.executable} -m pip install {package}",
            )
        elif name == "prometheus" and not watchdog_lives(read_status(paths)) and is_taken(config.sinks.prometheus_port):
            yield warn(
                f"port {config.sinks.prometheus_port}, for Prometheus, is taken",
                "choose another sinks.prometheus_port; without it training works, and this sink waits",
            )
        else:
            yield ok(f"metrics go to {name}: {where}")


def is_taken(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the sink does
        try:
            listener.bind((LOCALHOST, port))
        except OSError:
            return True
    return False


def check_power(paths: RunPaths) -> Iterator[Finding]:
    """GPUs that a run whose processes were all killed has left held down."""
    try:
        found = schema.load(paths.power, PowerFile)
    except DataError:
        return
    if found is None or found.boot_id != boot_id() or watchdog_lives(read_status(paths)):
        return
    for change in found.gpus.values():
        watts, least = change.original // 1000, min(change.ours) // 1000
        yield warn(
            f"GPU {change.gpu} may still be held down to {least} W (of {watts} W) by this run, which was killed",
            f"the run restores it when it is started again; or nvidia-smi -i {change.gpu} -pl {watts}",
        )
