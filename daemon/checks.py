"""What `up` checks before it writes or starts anything."""

import os
from pathlib import Path

from adam.contract import schema
from adam.contract.checkpoints import list_checkpoints, read_manifest
from adam.contract.config import Config
from adam.contract.config_forge import Source
from adam.contract.durable import require_room
from adam.contract.errors import CheckpointError, ConfigError, DataError, DiskError
from adam.contract.paths import RunPaths
from adam.contract.ram import FEWEST_SLOTS, no_room
from adam.contract.records import Desired, Plan
from adam.contract.shards import check_files, load_shards, load_tokens, token_files
from adam.daemon.presets import parameters
from adam.daemon.processes import read_status
from adam.daemon.supervisord import check_root

STATE_BYTES = 12  # per parameter: fp32 weights and AdamW's two moments
CHECKPOINTS = 2


def check_before_start(paths: RunPaths, config: Config) -> None:
    """Raise the AdamError that names the first thing in the way of this run (after `check_place` and `check_schemas`)."""
    check_vocabulary(paths, config)
    check_data(paths, config)
    check_room(paths, config)


def check_place(paths: RunPaths) -> None:
    """Raise UsageError or DiskError where a run can't be at this place at all. Before anything is read there."""
    check_root(paths)
    check_writable(paths)


def check_writable(paths: RunPaths) -> None:
    """Raise DiskError where the run directory can't be made or written."""
    place = paths.root
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise DiskError(f"the run directory {paths.root} can't be made: {place} is a file", "choose another with --run")
    places = [place, *(path for path in (paths.run, paths.logs, paths.checkpoints) if path.exists())]
    for each in places:
        if not os.access(each, os.W_OK | os.X_OK):
            raise DiskError(f"{each} can't be written", "correct its permissions or choose another run with --run")


def check_schemas(paths: RunPaths) -> None:
    """Raise SchemaError where a newer Adam wrote a file of the run. (The configurations are checked where they are read.)"""
    read_status(paths)
    load_shards(paths)
    load_tokens(paths)
    for path, kind in ((paths.desired, Desired), (paths.plan, Plan)):
        try:
            schema.load(path, kind)
        except DataError:
            continue  # torn by the disk: it is written anew
    if checkpoints := list_checkpoints(paths.checkpoints):
        try:
            read_manifest(checkpoints[-1])
        except CheckpointError:
            return  # the keeper puts it into quarantine and the one before it is used


def check_vocabulary(paths: RunPaths, config: Config) -> None:
    """Raise ConfigError where the tokenizer has more ids than the model."""
    ids, size = config.model.vocab_size, tokenizer_size(paths, config)
    if 0 < ids < size:
        raise ConfigError(
            f"model.vocab_size = {ids}: the tokenizer has {size} ids",
            "raise it, or use 0: the tokenizer's size, padded",
        )


def tokenizer_size(paths: RunPaths, config: Config) -> int:
    """The tokenizer's ids, 0 where they are not known yet."""
    tokens = load_tokens(paths)
    if tokens is not None:
        return tokens.vocab_size
    return config.forge.vocab_size if config.forge.tokenizer == "train" else 0


def check_data(paths: RunPaths, config: Config) -> None:
    """Raise DataError where a source is missing, or shards or tokens are not whole (sizes; digests are the trainer's)."""
    shards, tokens = load_shards(paths), load_tokens(paths)
    if shards is None:
        for source in config.forge.sources:
            check_source(paths, source)
        return
    check_files(paths.shards, shards.files, digests=False)
    if tokens is not None:
        check_files(paths.tokens, token_files(tokens), digests=False)


def check_source(paths: RunPaths, source: Source) -> None:
    if source.kind != "files" or not source.path:
        return  # the Hub's sets are asked for by the forge
    path = paths.root / source.path
    if not path.exists():
        raise DataError(f"no such source: {path}", "correct forge.sources in adam.toml")
    if not has_bytes(path):
        raise DataError(f"the source {path} is empty", "correct forge.sources in adam.toml")


def has_bytes(path: Path) -> bool:
    """True where `path` is, or has in it, a file that is not empty."""
    files = [path] if path.is_file() else path.rglob("*")
    return any(file.is_file() and file.stat().st_size > 0 for file in files)


def check_room(paths: RunPaths, config: Config) -> None:
    """Raise DiskError where there is no room for two checkpoints (and for slots that memory can't take), less what is there already."""
    state = parameters(config, tokenizer_size(paths, config)) * STATE_BYTES
    missing = max(1, CHECKPOINTS - len(list_checkpoints(paths.checkpoints)))
    staged = FEWEST_SLOTS * state if config.checkpoint.ram == "off" or no_room(FEWEST_SLOTS * state) else 0
    there = sum(file.stat().st_size for file in paths.staging.rglob("*.safetensors"))
    need = missing * state + max(0, staged - there)
    require_room(paths.checkpoints, need, "two checkpoints and the snapshots of this model")
