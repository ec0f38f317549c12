"""`python -m adam.forge --run DIR`: build the shards and tokens of a run, or say what has changed since."""

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from adam.contract.checkpoints import list_checkpoints
from adam.contract.config import Config
from adam.contract.config_file import load_config
from adam.contract.config_forge import Forge, forge_digest
from adam.contract.durable import sha256_file, whole_lines
from adam.contract.errors import BusyError, DataError, run_main
from adam.contract.lease import read_lease, take_lease
from adam.contract.output import never_fail
from adam.contract.paths import RunPaths
from adam.contract.process import die_with_parent
from adam.contract.shards import (
    LEFT_OUT,
    SOURCES,
    ShardManifest,
    SourceFile,
    changed_sources,
    check_files,
    data_ready,
    load_shards,
    load_tokens,
    token_files,
)
from adam.contract.states import Exit, Phase
from adam.forge.build import build_shards
from adam.forge.catalog import check_sources, known_sources
from adam.forge.log import open_log
from adam.forge.progress import Progress
from adam.forge.report import lines
from adam.forge.sources import file_text, open_sources
from adam.forge.tokens import build_tokens

NAMED_CHANGES = 20  # lines; of more, the number is said


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="adam.forge", description="Build the shards and tokens of a run. `adamctl forge` starts it."
    )
    parser.add_argument("--run", type=Path, required=True, help="the run directory")
    parser.add_argument("--leased", action="store_true", help="a launcher holds the lease for this process")
    parser.add_argument("--rebuild", action="store_true", help="build anew, from the sources as they are now")
    parser.add_argument("--check", action="store_true", help="only say whether sources or shards have changed")
    parser.add_argument("--sources", action="store_true", help="only list the sets that are known by name")
    parser.add_argument("--reach", action="store_true", help="only say whether each source can be had")
    arguments = parser.parse_args()
    if arguments.leased:
        die_with_parent()
        never_fail()
    open_log()
    paths = RunPaths(arguments.run)
    if arguments.sources:
        return _say(known_sources(load_config(paths.config).forge if paths.config.exists() else Forge()))
    config = load_config(paths.lock if paths.lock.exists() else paths.config)
    if arguments.reach:
        return _reach(config, paths)
    if arguments.check:
        return _check(config, paths)
    paths.run.mkdir(parents=True, exist_ok=True)
    if arguments.leased:
        attempt, token = int(os.environ["ADAM_ATTEMPT"]), int(os.environ["ADAM_TOKEN"])
    else:
        before = read_lease(paths)
        attempt, token = 0, before.token + 1 if before else 1
        take_lease(paths, "forge", token, attempt)
    if arguments.rebuild:
        _forget(config, paths)
    return _build(config, paths, attempt, token, show=not arguments.leased)


def _say(lines: Iterable[str]) -> int:
    for line in lines:
        print(line)
    return Exit.OK


def _reach(config: Config, paths: RunPaths) -> int:
    """Say of each source whether it can be had now."""
    good = True
    for well, line in check_sources(config.forge, paths.root):
        print(line, flush=True)
        good = good and well
    return Exit.OK if good else Exit.DATA


def _build(config: Config, paths: RunPaths, attempt: int, token: int, *, show: bool) -> int:
    if data_ready(paths):
        changes = list(_changes(config, paths))
        for line in _shortened(changes):
            print(f"changed since the shards were made: {line}")
        print(
            "shards and tokens are complete: nothing to do"
            + ("; `adamctl forge --rebuild` takes the sources anew" if changes else "")
        )
        return Exit.OK
    stop = _stop_flag()
    progress = Progress(paths, attempt, token, show=show)
    try:
        shards = _made_before(paths) or build_shards(config, paths, progress, stop)
        tokens = build_tokens(config, paths, shards, progress, stop)
        progress.enter(Phase.ENDING, 0)
    finally:
        progress.close()
    for line in lines(shards, tokens, config.trainer):
        print(line)
    return Exit.OK


def _made_before(paths: RunPaths) -> ShardManifest | None:
    """Shards that are complete. A forge that was killed just behind their manifest left what it worked with."""
    shards = load_shards(paths)
    if shards is not None:
        shutil.rmtree(paths.shards_work, ignore_errors=True)
    return shards


def _stop_flag() -> Callable[[], bool]:
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signum, _frame: asked.append(signum))
    return lambda: bool(asked)


def _changes(config: Config, paths: RunPaths) -> list[str]:
    """What is gone, changed or new in the sources and in [forge], a line each."""
    found, origins = [], []
    shards = load_shards(paths)
    if shards is not None and shards.config_digest != forge_digest(config.forge):
        found.append("[forge] of the configuration is another than the shards were made by")
    try:
        origins = open_sources(config.forge, paths.root, remote=False)
    except DataError as error:
        found.append(str(error))  # a whole source is gone: that is a change, and the shards are still good
    found += changed_sources(paths)
    listed = (msgspec.json.decode(line, type=SourceFile) for _, line in whole_lines(paths.shards / SOURCES))
    known = {file.path for file in listed if file.skipped not in LEFT_OUT}
    for origin in origins:
        found += [f"{origin.name}: {path} is new" for path in map(file_text, origin.files) if path not in known]
    return found


def _shortened(changes: list[str]) -> list[str]:
    more = len(changes) - NAMED_CHANGES
    return changes if more <= 1 else [*changes[:NAMED_CHANGES], f"and {more} more"]


def _check(config: Config, paths: RunPaths) -> int:
    """Say what has changed in the sources; raise DataError where shards or tokens are not what their manifests say."""
    shards, tokens = load_shards(paths), load_tokens(paths)
    if shards is None or tokens is None:
        print("there are no complete shards and tokens yet")
        return Exit.DATA
    check_files(paths.shards, shards.files, digests=True)
    check_files(paths.tokens, token_files(tokens), digests=True)
    if tokens.shards_sha256 != sha256_file(paths.shards_manifest):
        print("tokens/ was made of other shards than there are now; `adamctl forge` makes it again")
        return Exit.DATA
    changes = _changes(config, paths)
    for line in _shortened(changes):
        print(line)
    print(
        "shards and tokens are whole; "
        + (f"{len(changes)} changes in the sources" if changes else "the sources have not changed")
    )
    return Exit.DATA if changes else Exit.OK


def _forget(config: Config, paths: RunPaths) -> None:
    """Remove the data, where they can be made again. Raises BusyError (trained on), DataError (no such source)."""
    if list_checkpoints(paths.checkpoints):
        raise BusyError(
            f"{paths.checkpoints} has checkpoints that were trained on the present data",
            "start another run for other data",
        )
    open_sources(config.forge, paths.root)
    # Manifests first: data without one is no data.
    for manifest, directory in ((paths.tokens_manifest, paths.tokens), (paths.shards_manifest, paths.shards)):
        manifest.unlink(missing_ok=True)
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(run_main("adam.forge", main))
