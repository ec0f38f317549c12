"""What of a configuration can't change once a run has begun, and what changes its numbers."""

from typing import Any

import msgspec

from adam.contract.config import Config
from adam.contract.errors import ConfigError

# Fixed once there are shards: they were made by these.
FIXED_BY_DATA = ("forge.",)
# Fixed once a step was trained or a checkpoint exists: the weights, the moments and the order of data hang on them.
FIXED_BY_TRAINING = (
    "model.",
    "trainer.seed",
    "trainer.weights",
    "trainer.seq_len",
    "trainer.batch_size",
    "trainer.lr",
    "trainer.min_lr",
    "trainer.warmup_steps",
    "trainer.decay_steps",
    "trainer.weight_decay",
    "trainer.optimizer",
    "trainer.beta1",
    "trainer.beta2",
    "trainer.eps",
    "trainer.clip",
)
# May change, but the numbers are then no longer bit for bit those of the run before: a recorded break.
NUMERICS = (
    "trainer.micro_batch",
    "trainer.fit",
    "trainer.device",
    "trainer.gpus",
    "trainer.backend",
    "trainer.precision",
    "trainer.threads",
)


def changed_keys(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (old value, new value), of every key whose value differs."""
    before, after = _flat(msgspec.to_builtins(old)), _flat(msgspec.to_builtins(new))
    return {key: (before.get(key), after.get(key)) for key in {**before, **after} if before.get(key) != after.get(key)}


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat


def settle_config(
    new: Config, locked: Config | None, *, has_data: bool, has_training: bool
) -> tuple[Config, list[str]]:
    """The configuration that the run goes on with, and the numerics keys that changed (a break in exactness).

    `has_data`: there are shards. `has_training`: a step was trained, or a checkpoint is there.
    Fills in `decay_steps`, which is laid out once: more steps later go on at min_lr.
    Raises ConfigError naming the first key that can't change any more.
    """
    if locked is not None and has_training and new.trainer.decay_steps == 0:
        # The schedule was laid out for the steps of the first start; more steps go on at min_lr.
        new = _replace_trainer(new, decay_steps=locked.trainer.decay_steps)
    elif new.trainer.decay_steps == 0:
        new = _replace_trainer(new, decay_steps=new.trainer.steps)
    if locked is None:
        return new, []
    changed = changed_keys(locked, new)
    fixed: tuple[str, ...] = FIXED_BY_DATA if has_data else ()
    fixed += FIXED_BY_TRAINING if has_training else ()
    for key, (before, after) in sorted(changed.items()):
        if key.startswith(fixed):
            raise ConfigError(
                f"{key} can't change in a run that has begun: it is {before!r}, the file says {after!r}",
                "put it back, or start another run (`adamctl fork` continues from a checkpoint with other settings)",
            )
    return new, [key for key in sorted(changed) if key.startswith(NUMERICS)] if has_training else []


def _replace_trainer(config: Config, **values: Any) -> Config:
    return msgspec.structs.replace(config, trainer=msgspec.structs.replace(config.trainer, **values))
