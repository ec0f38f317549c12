"""`adamctl checkpoints export-weights`: the weights of a checkpoint in a directory of their own, for mamba_ssm and others."""

import argparse
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adam.contract.checkpoints import parse_name, verify
from adam.contract.durable import fsync_dir, human_bytes, replace_file, require_room
from adam.contract.errors import UsageError
from adam.contract.far import WEIGHTS
from adam.contract.foreign import their_name, transformers_config
from adam.contract.pins import held
from adam.contract.weights import (
    CONFIG,
    HEAD,
    THEIR_EPSILON,
    mamba_config,
    metadata_of,
    shape_of,
    size_of,
    weights_of,
    write_weights,
)
from adam.contract.whole import Whole, whole_tensors
from adam.daemon.bars import byte_bar
from adam.daemon.named import NEWEST, named_checkpoint
from adam.daemon.run_of import run_of, shown


def run(arguments: argparse.Namespace) -> int:
    paths = run_of(arguments)
    target = free_target(arguments.target)
    checkpoint = named_checkpoint(paths, arguments.name)
    with held(checkpoint):
        with byte_bar("verifying", sum(file.stat().st_size for file in checkpoint.iterdir())) as told:
            verify(checkpoint, told)
        head, tensors = whole_tensors(checkpoint)
        shape = shape_of(paths, checkpoint, head, tensors)
        weights = weights_of(tensors, shape)
        form = mamba_config(shape)
        if arguments.form == "transformers":
            weights = {
                their_name(name): whole
                for name, whole in weights.items()
                if not (shape.tie_embeddings and name == HEAD)
            }
            form = transformers_config(shape, arguments.dtype)
        write(target, weights, form, arguments.dtype, metadata_of(checkpoint, head, shape))
    size = human_bytes(size_of(weights, arguments.dtype))
    print(
        f"{shown(target)}: {WEIGHTS} ({len(weights)} tensors, {arguments.dtype}, {size}) and {CONFIG} of {checkpoint.name}"
    )
    if arguments.form == "mamba_ssm" and shape.norm_epsilon != THEIR_EPSILON:
        print(f"mamba_ssm computes norms with an epsilon of {THEIR_EPSILON}: set it to {shape.norm_epsilon} there")
    return 0


def free_target(named: str) -> Path:
    """The directory to write. Raises UsageError where there is something, or what was named can't be meant."""
    target = Path(named).resolve()
    if named == NEWEST or parse_name(target.name):
        raise UsageError(f"{named} is a checkpoint, not a directory to write to", "name a directory behind it")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} is not an empty directory", "name another one")
    if not target.parent.is_dir():
        raise UsageError(f"there is no directory {target.parent}", "make it first")
    return target


def write(target: Path, weights: dict[str, Whole], form: dict[str, Any], dtype: str, metadata: dict[str, str]) -> None:
    """Both files, at once. form: what config.json says. Raises DiskError, before anything is written, where there is no room."""
    size = size_of(weights, dtype)
    require_room(target.parent, size + (1 << 20), "the weights")
    with appearing(target) as place, byte_bar("writing", size) as told:
        write_weights(place / WEIGHTS, weights, dtype, metadata, told)
        replace_file(place / CONFIG, json.dumps(form, indent=2).encode() + b"\n")


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A directory to fill, which is called `target` once it is whole; nothing is left of it where it does not come to that."""
    place = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    place.mkdir()
    try:
        yield place
        fsync_dir(place)
        place.rename(target)
        fsync_dir(target.parent)
    finally:
        shutil.rmtree(place, ignore_errors=True)
