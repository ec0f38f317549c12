"""`adamctl fork`: another run that begins at a checkpoint of this one, on the same data."""

import argparse
import errno
import os
import shutil
from pathlib import Path

from adam.contract import schema
from adam.contract.checkpoints import MANIFEST, parse_name, verify
from adam.contract.clock import stamp
from adam.contract.config_file import commented_toml, load_config, write_lock
from adam.contract.durable import fsync_dir, replace_file
from adam.contract.errors import UsageError
from adam.contract.paths import RunPaths
from adam.contract.pins import held
from adam.contract.shards import check_files, load_shards, load_tokens, token_files
from adam.daemon.named import named_checkpoint
from adam.daemon.run_of import run_paths, shown
from adam.daemon.settle import Origin

# A hard link is refused across file systems, by some file systems, for others' files, and beyond a number of links.
NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP)


def run(arguments: argparse.Namespace) -> int:
    checkpoint, parent = find_checkpoint(arguments)
    target = RunPaths(Path(arguments.target).resolve())
    if target.root.exists() and (not target.root.is_dir() or any(target.root.iterdir())):
        raise UsageError(f"{target.root} is not an empty directory", "name another one")
    print(f"verifying {checkpoint.name}", flush=True)
    with held(checkpoint):
        verify(checkpoint)
        check_data(parent)
        build_or_nothing(parent, checkpoint, target)
    print(f"{shown(target.root)} begins at step {(parse_name(checkpoint.name) or (0, 0))[0]} of {shown(parent.root)}")
    print(f"change [trainer] in {shown(target.config)} as you like, then `adamctl up --run {shown(target.root)}`")
    return 0


def build_or_nothing(parent: RunPaths, checkpoint: Path, target: RunPaths) -> None:
    existed = target.root.exists()
    try:
        build(parent, checkpoint, target)
    except BaseException:
        for path in target.root.iterdir() if target.root.exists() else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not existed and target.root.exists():
            target.root.rmdir()
        raise


def find_checkpoint(arguments: argparse.Namespace) -> tuple[Path, RunPaths]:
    """The checkpoint's directory and its run: `--from` is a path, or a name in the run that is meant, or `newest`."""
    named = Path(arguments.origin)
    if named.is_dir() and parse_name(named.resolve().name):
        checkpoint = named.resolve()
        return checkpoint, RunPaths(checkpoint.parent.parent)
    parent = run_paths(arguments.run)
    return named_checkpoint(parent, arguments.origin), parent


def check_data(parent: RunPaths) -> None:
    """Raise DataError or UsageError where the parent's data are not whole (sizes; the trainer checks digests)."""
    shards, tokens = load_shards(parent), load_tokens(parent)
    if shards is None or tokens is None:
        raise UsageError(
            f"{parent.root} has no complete data", "a checkpoint is continued on the data that it was trained on"
        )
    check_files(parent.shards, shards.files, digests=False)
    check_files(parent.tokens, token_files(tokens), digests=False)


def build(parent: RunPaths, checkpoint: Path, target: RunPaths) -> None:
    """The new run directory. Its manifests and its lock come last: without them it is no run."""
    for source, place in ((parent.shards, target.shards), (parent.tokens, target.tokens)):
        link_tree(source, place)
    if not link_tree(checkpoint, target.checkpoints / checkpoint.name):
        verify(target.checkpoints / checkpoint.name)
    fsync_dir(target.checkpoints)
    fsync_dir(target.root)
    target.run.mkdir()
    config = load_config(parent.lock)
    text = parent.config.read_text() if parent.config.exists() else commented_toml(config)
    replace_file(target.config, text.encode())
    step, _ = parse_name(checkpoint.name) or (0, 0)
    schema.save(target.origin, Origin(run=str(parent.root), checkpoint=checkpoint.name, step=step, stamp=stamp()))
    write_lock(target.lock, config)


def link_tree(source: Path, target: Path) -> bool:
    """Hard links to the files of `source` (they are never written again), copies where links are refused; manifests last.

    True where all of them are links: the bytes are then the very same.
    """
    target.mkdir(parents=True)
    files = [path for path in source.iterdir() if path.is_file()]
    ordered = sorted(files, key=lambda path: path.name.lower().startswith(MANIFEST.lower()))
    linked = [link_or_copy(path, target / path.name) for path in ordered]
    fsync_dir(target)
    return all(linked)


def link_or_copy(source: Path, target: Path) -> bool:
    """True where it is a link."""
    try:
        os.link(source, target)
        return True
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
    shutil.copy2(source, target)
    with target.open("rb") as file:
        os.fsync(file.fileno())
    return False
