"""Evaluation sets of the Hub: pinned and fetched whole, since every item of theirs is looked for from the first document on."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from adam.contract.config_filters import EvaluationSet
from adam.contract.config_forge import Forge, Source
from adam.contract.errors import DataError
from adam.contract.shards import hashed
from adam.forge.hub import HubFile, explained, list_files, readable
from adam.forge.registry import resolve

KNOWN = frozenset({".parquet", ".jsonl", ".json", ".txt", ".csv", ".tsv"})


class Fetched(NamedTuple):
    """A set with its files on this machine, at one revision. `pin`: what the journal calls it."""

    pin: str
    called: str
    revision: str
    files: list[Path]


def fetch_sets(forge: Forge, pins: Mapping[str, str]) -> list[Fetched]:
    """The sets of forge.filters.evaluation_sets, in the Hub's own cache. `pins`: the commits that were taken before.

    Raises HubError (away, gated, gone, …), DataError (no file that holds items), ConfigError (no such set).
    """
    return [_fetched(asked, forge, pins) for asked in forge.filters.evaluation_sets]


def _fetched(asked: EvaluationSet, forge: Forge, pins: Mapping[str, str]) -> Fetched:
    known = resolve(Source(kind="hub", id=asked.id), forge).source
    source = Source(
        kind="hub",
        id=known.id,
        config=asked.config or known.config,
        split=asked.split,
        revision=asked.revision,
        files=asked.files,
    )
    parts = ", ".join(filter(None, (source.config, *source.files, "" if source.files else source.split)))
    called = f"{source.id} ({parts})"
    revision, files = list_files(source, pins.get(f"evaluation {called}", ""))
    if not (items := readable(files, set(KNOWN))):
        raise DataError(f"{called} has no file of a known kind", f"known endings are {' '.join(sorted(KNOWN))}")
    return Fetched(f"evaluation {called}", called, revision, [_file(file) for file in items])


def _file(file: HubFile) -> Path:
    """A file of the Hub, whole. Raises HubError."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(file.repo, file.path, repo_type="dataset", revision=file.revision))
    except Exception as error:  # noqa: BLE001  (network libraries raise what they like; `explained` says what it was)
        raise explained(file.repo, error) from None


def with_files(forge: Forge, sets: list[Fetched]) -> Forge:
    """The configuration with the fetched files among its evaluation sets."""
    files = (str(file) for one in sets for file in one.files)
    filters = msgspec.structs.replace(forge.filters, evaluation=(*forge.filters.evaluation, *files))
    return msgspec.structs.replace(forge, filters=filters)


def summaries(forge: Forge, root: Path, sets: list[Fetched]) -> tuple[str, ...]:
    """For the ledger: each set or file that documents were compared with, and what pins it. Raises DataError."""
    own = [f"{name}, files-{_digest(root / Path(name).expanduser())[:16]}" for name in forge.filters.evaluation]
    return (*own, *(f"{one.called}, {one.revision}" for one in sets))


def _digest(path: Path) -> str:
    try:
        return hashed(path)
    except OSError as error:
        raise DataError(f"no evaluation set at {path}: {error.strerror}", "correct forge.filters.evaluation") from None
