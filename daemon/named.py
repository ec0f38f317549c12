"""Which checkpoint a command means: by its name, or `newest`."""

import difflib
from collections.abc import Iterable
from pathlib import Path

from adam.contract.checkpoints import list_checkpoints
from adam.contract.errors import CheckpointError
from adam.contract.paths import RunPaths

NEWEST = "newest"


def named_checkpoint(paths: RunPaths, name: str) -> Path:
    """The directory of a checkpoint of the run. Raises CheckpointError naming the nearest one."""
    found = {path.name: path for path in list_checkpoints(paths.checkpoints)}
    if name == NEWEST and found:
        return list(found.values())[-1]
    if name not in found:
        raise no_such(paths, name, found)
    return found[name]


def no_such(paths: RunPaths, name: str, known: Iterable[str]) -> CheckpointError:
    """The error for a name that is none of `known`."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)
    todo = f"did you mean {near[0]}?" if near else "see `adamctl checkpoints`"
    return CheckpointError(f"there is no checkpoint {name} in {paths.checkpoints}", todo)
