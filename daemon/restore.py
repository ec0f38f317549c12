"""`adamctl restore`: the whole state of a run, fetched from where its uploader put it, in a new run directory."""

import argparse
import os
import shutil
from pathlib import Path

from adam.contract.checkpoints import FileEntry, parse_name, verify
from adam.contract.config_file import load_config
from adam.contract.durable import fsync_dir, make_directories, require_room, sha256_file
from adam.contract.errors import CheckpointError, TimeoutExpired, UsageError
from adam.contract.far import (
    FAR_MANIFEST,
    FETCHING,
    SHARDS,
    STATE,
    TOKENS,
    Far,
    FarManifest,
    FarPart,
    is_inside,
    open_far,
)
from adam.contract.hub_token import hub_token, without
from adam.contract.paths import RunPaths
from adam.daemon.bars import byte_bar
from adam.daemon.run_of import shown


def run(arguments: argparse.Namespace) -> int:
    token = hub_token()
    far = open_far(arguments.url, token)
    target = free_target(arguments.target or arguments.run or f"runs/{arguments.url.rstrip('/').rpartition('/')[2]}")
    try:
        manifest, state = wanted(far)
        fetch_all(far, manifest, state, target)
    except far.errors as error:
        if getattr(error, "errno", None):
            raise  # of this machine's disk
        raise TimeoutExpired(
            f"{far.where} can't be read: {without(str(error), token)}", "say it again: what has arrived is kept"
        ) from None
    print(f"{shown(target.root)} is {manifest.name} as it was at step {state.step}; every byte of it is right")
    print(f"`adamctl up --run {shown(target.root)}` goes on")
    return 0


def free_target(named: str) -> RunPaths:
    target = Path(named).resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} is not an empty directory", "name another one")
    return RunPaths(target)


def wanted(far: Far) -> tuple[FarManifest, FarPart]:
    """What is there to be restored. Raises CheckpointError where there is no whole state, or names that lead elsewhere."""
    manifest = far.manifest()
    if manifest is None:
        raise CheckpointError(f"{far.where} has no {FAR_MANIFEST}", "name a place that a run was uploaded to")
    if manifest.state is None:
        raise CheckpointError(
            f"{far.where} has weights only, no whole state", "set upload.state_every_hours in the run that uploads"
        )
    known = (f"{STATE}{manifest.state.checkpoint}/", SHARDS, TOKENS)
    for entry in (*manifest.state.files, *manifest.data):
        if not (is_inside(entry.name) and entry.name.startswith(known) and parse_name(manifest.state.checkpoint)):
            raise CheckpointError(f"{far.where}/{FAR_MANIFEST} names {entry.name!r}, which is none of a run's files")
    return manifest, manifest.state


def fetch_all(far: Far, manifest: FarManifest, state: FarPart, target: RunPaths) -> None:
    """The run appears at `target` when all of it is there; what was fetched before that is found by the next try."""
    place = RunPaths(target.root.with_name(f".{target.root.name}.restoring"))
    places = {entry: place_of(entry.name, state.checkpoint, place) for entry in (*state.files, *manifest.data)}
    make_directories(place.run)
    have = sum(path.stat().st_size for path in place.root.rglob("*") if path.is_file())
    require_room(place.root, max(0, sum(entry.size for entry in places) - have), "the run")
    with byte_bar("fetching", sum(entry.size for entry in places)) as told:
        for entry, path in places.items():
            fetch(far, entry, path)
            told(entry.size)
    verify(place.checkpoints / state.checkpoint)
    load_config(place.lock)
    for directory in {path.parent for path in places.values()}:
        shutil.rmtree(directory / FETCHING, ignore_errors=True)
        fsync_dir(directory)
    if target.root.exists():
        target.root.rmdir()
    place.root.rename(target.root)
    fsync_dir(target.root.parent)


def place_of(name: str, checkpoint: str, paths: RunPaths) -> Path:
    """Where a file of the far place belongs in a run."""
    if name.startswith(SHARDS):
        return paths.shards / name.removeprefix(SHARDS)
    if name.startswith(TOKENS):
        return paths.tokens / name.removeprefix(TOKENS)
    own = name.removeprefix(f"{STATE}{checkpoint}/")
    place = paths.root if own in (paths.config.name, paths.lock.name) else paths.checkpoints / checkpoint
    return place / own


def fetch(far: Far, entry: FileEntry, path: Path) -> None:
    """One file, unless it is there already. Raises CheckpointError where it has other bytes than were uploaded."""
    if is_whole(path, entry):
        return
    make_directories(path.parent)
    far.fetch(entry.name, path)
    if not is_whole(path, entry):
        path.unlink()
        raise CheckpointError(f"{far.where}/{entry.name} has other bytes than were uploaded", "say it again")
    with path.open("rb") as file:
        os.fsync(file.fileno())


def is_whole(path: Path, entry: FileEntry) -> bool:
    return path.is_file() and path.stat().st_size == entry.size and sha256_file(path) == entry.sha256
