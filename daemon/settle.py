"""Which configuration a run goes on with: its adam.toml, held against what it has already begun."""

import msgspec

from adam.contract.checkpoints import list_checkpoints
from adam.contract.clock import Stamp
from adam.contract.config import Config
from adam.contract.config_file import load_config
from adam.contract.lock import settle_config
from adam.contract.paths import RunPaths
from adam.contract.schema import Record, load


class Origin(Record, frozen=True, kw_only=True):
    """`origin.json`: where a forked run comes from (writer: `adamctl fork`)."""

    run: str
    checkpoint: str
    step: int
    stamp: Stamp


def has_steps(paths: RunPaths) -> bool:
    """True where a step was trained in this very directory."""
    return paths.steps.exists() and paths.steps.stat().st_size > 0


def settle(paths: RunPaths, new: Config, *, rebuild_data: bool = False) -> tuple[Config, list[str]]:
    """The configuration to go on with, and the numerics keys that changed; as `contract.lock.settle_config`.

    A fork has weights, and so a shape that can't change; its trainer settings may, until it has trained a step.
    `rebuild_data`: the shards are about to be made anew.
    """
    locked = load_config(paths.lock) if paths.lock.exists() else None
    if locked is not None and load(paths.origin, Origin) is not None and not has_steps(paths):
        new = inherit_schedule(new, locked)
        locked = msgspec.structs.replace(locked, trainer=new.trainer)
    has_training = has_steps(paths) or bool(list_checkpoints(paths.checkpoints))
    has_data = paths.shards_manifest.exists() and (has_training or not rebuild_data)
    return settle_config(new, locked, has_data=has_data, has_training=has_training)


def inherit_schedule(new: Config, parent: Config) -> Config:
    """A fork goes on along its parent's schedule where its own file lays out none."""
    if new.trainer.decay_steps:
        return new
    trainer = msgspec.structs.replace(new.trainer, decay_steps=parent.trainer.decay_steps)
    return msgspec.structs.replace(new, trainer=trainer)
