"""Who started this process, where that is supervisord."""

import os

from adam.contract.paths import RunPaths


def supervised(paths: RunPaths) -> bool:
    """True where this process was started by the supervisord of this run."""
    return os.environ.get("ADAM_SUPERVISED") == str(paths.root)


def supervisor_pid(paths: RunPaths) -> int | None:
    """The pid of the supervisord that started this process; None where none did, or it has not written its pid yet."""
    if not supervised(paths):
        return None
    try:
        return int(paths.supervisor_pid.read_text())
    except (FileNotFoundError, ValueError):
        return None
