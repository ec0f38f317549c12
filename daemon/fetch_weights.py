"""`adamctl fetch-weights`: public Mamba weights from the Hub, in a folder that `trainer.weights` can name."""

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from adam.contract.checkpoints import FileEntry
from adam.contract.config import REPO
from adam.contract.durable import fsync_dir, human_bytes, make_directories, require_room, sha256_file
from adam.contract.errors import CheckpointError, ConfigError, TimeoutExpired, UsageError
from adam.contract.far import FETCHING, HUB
from adam.contract.foreign import WEIGHT_FILES, foreign_shape, index_files
from adam.contract.hub_token import hub_token, without
from adam.contract.model import ModelConfig, parameter_count
from adam.contract.weights import CONFIG
from adam.daemon.bars import byte_bar
from adam.daemon.run_of import shown

if TYPE_CHECKING:
    from adam.contract.far_hub import HubFar


def run(arguments: argparse.Namespace) -> int:
    from adam.contract.far_hub import HubFar

    repo, target, token = arguments.repo.removeprefix(HUB), Path(arguments.target).resolve(), hub_token()
    if not REPO.fullmatch(repo):
        raise UsageError(f"{arguments.repo!r} is no repository", "name it as USER/REPO")
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is not a directory", "name another one")
    far = HubFar(repo, token, private=True)
    try:
        paths = fetch_all(far, target)
    except far.errors as error:
        if getattr(error, "errno", None):
            raise  # of this machine's disk
        why = without(str(error), token).splitlines()[0]
        raise TimeoutExpired(f"{far.where} can't be read: {why}", "say it again: what has arrived is kept") from None
    shape, size = foreign_shape(target), sum(path.stat().st_size for path in paths)
    print(
        f"{shown(target)}: {', '.join(path.name for path in paths)} ({human_bytes(size)}), every byte as the Hub has it"
    )
    print(f"{parameter_count(shape):,} parameters; a run begins with them by this in its adam.toml:")
    print(f'\n[trainer]\nweights = "{target}"\n\n{model_table(shape)}')
    return 0


def fetch_all(far: "HubFar", target: Path) -> list[Path]:
    """The files there, shards last. Raises ConfigError where there are no weights that we load."""
    there = far.names()
    first = next((name for name in WEIGHT_FILES if name in there), None)
    if first is None or CONFIG not in there:
        raise ConfigError(
            f"{far.where} has no {CONFIG} beside one of {', '.join(WEIGHT_FILES)}", "name a repository of Mamba weights"
        )
    make_directories(target)
    paths = fetch(far, [CONFIG], target)
    foreign_shape(target)  # before gigabytes of what we can't use
    paths += fetch(far, [first], target)
    if first.endswith(".json"):
        paths += fetch(far, [path.name for path in index_files(target / first)], target)
    shutil.rmtree(target / FETCHING, ignore_errors=True)
    fsync_dir(target)
    return paths


def fetch(far: "HubFar", names: list[str], target: Path) -> list[Path]:
    """These files, but for those that are there already. Raises CheckpointError for one that the Hub has not, or gives other bytes of."""
    entries = {entry.name: entry for entry in far.entries(names)}
    if missing := [name for name in names if name not in entries]:
        raise CheckpointError(f"{far.where} has no {missing[0]}", "its index names it: the repository is not whole")
    wanted = [entry for entry in entries.values() if not is_whole(target / entry.name, entry)]
    require_room(target, sum(entry.size for entry in wanted), "the weights")
    with byte_bar("fetching", sum(entry.size for entry in wanted)) as told:
        for entry in wanted:
            far.fetch(entry.name, target / entry.name)
            if not is_whole(target / entry.name, entry):
                (target / entry.name).unlink()
                raise CheckpointError(
                    f"{far.where}/{entry.name} arrived with other bytes than the Hub has", "say it again"
                )
            told(entry.size)
    return [target / name for name in names]


def is_whole(path: Path, entry: FileEntry) -> bool:
    """Small files have no digest there."""
    return path.is_file() and path.stat().st_size == entry.size and entry.sha256 in ("", sha256_file(path))


def model_table(shape: ModelConfig) -> str:
    """[model] of that shape; what is not said has the same default here."""
    default = ModelConfig()
    lines = []
    for field in shape.__struct_fields__:
        value = getattr(shape, field)
        if value != getattr(default, field):
            lines.append(f"{field} = {str(value).lower() if isinstance(value, bool) else repr(value)}")
    return "\n".join(["[model]", *lines]).replace("'", '"')
