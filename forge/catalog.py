"""What people ask before a run: which sets are known (`adamctl forge sources`), and can mine be had (`adamctl forge check`)."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from adam.contract.config_forge import Forge, RegistryEntry, Source
from adam.contract.durable import human_bytes
from adam.contract.errors import AdamError
from adam.forge.evaluation_sets import fetch_sets
from adam.forge.hub import HubFile, dataset_info, open_first
from adam.forge.registry import entries, resolve
from adam.forge.room import disk_needed, text_bytes_expected
from adam.forge.skeletons import masking_version
from adam.forge.sources import Origin, file_status, open_source


def known_sources(forge: Forge) -> Iterator[str]:
    """A line a set: name, id, licence, access, size; under it what is to be minded. Asks nothing of the network."""
    for name, entry in sorted(entries(forge).items()):
        if entry.gone:
            instead = f"; {entry.successor} is taken in its place" if entry.successor else ""
            yield f"{name}: {entry.id} {entry.gone}{instead}"
            continue
        yield f"{name}: {entry.id}{f' ({entry.config})' if entry.config else ''}, {_facts(entry)}"
        if entry.note:
            yield f"    {entry.note}"


def _facts(entry: RegistryEntry) -> str:
    facts = [entry.licence or "licence not known", "gated: accept its terms, give HF_TOKEN" if entry.gated else "open"]
    facts += [f"{entry.rows:,} rows"] if entry.rows else []
    facts += [human_bytes(entry.download_bytes)] if entry.download_bytes else []
    return ", ".join(facts)


def check_sources(forge: Forge, run: Path) -> Iterator[tuple[bool, str]]:
    """(good, line) for each source of the configuration: whether it can be had now, and what to do where it can't.

    Of a set of the Hub its first bytes are fetched, since its list of files says nothing of who may read them.
    """
    origins: list[Origin] = []
    for source in forge.sources:
        called = source.name or source.id or source.path or source.kind
        try:
            origin = open_source(source, forge, run)
            first = origin.files[0]
            if isinstance(first, HubFile):
                open_first(first)
        except AdamError as error:
            yield False, f"{called}: {error}"
            continue
        origins.append(origin)
        yield True, f"{called}: {_there(origin)}"
        yield from ((True, f"    {note}") for note in (*origin.notes, *_moved(source, forge, origin)))
    yield from _evaluation(forge)
    yield from _model(forge, run)
    if len(origins) == len(forge.sources):
        text = text_bytes_expected(forge, origins)
        yield True, f"shards and tokens take {human_bytes(disk_needed(forge, text, 0))} at most"


def _evaluation(forge: Forge) -> Iterator[tuple[bool, str]]:
    """Whether the evaluation sets of the Hub can be had; they are fetched, which the run does not do again."""
    for asked in forge.filters.evaluation_sets:
        try:
            filters = msgspec.structs.replace(forge.filters, evaluation_sets=(asked,))
            (found,) = fetch_sets(msgspec.structs.replace(forge, filters=filters), {})
        except AdamError as error:
            yield False, f"{asked.id}: {error}"
        else:
            yield True, f"evaluation set {found.called}: {len(found.files)} files, revision {found.revision[:12]}"


def _model(forge: Forge, run: Path) -> Iterator[tuple[bool, str]]:
    """Whether what masks is there, where anything is masked."""
    try:
        if version := masking_version(forge, run):
            yield True, f"entities are found by {version}"
    except AdamError as error:
        yield False, str(error)


def _there(origin: Origin) -> str:
    size = human_bytes(sum(file_status(file).size for file in origin.files))
    revision = f", revision {origin.revision[:12]}" if origin.revision else ""
    return f"{len(origin.files):,} files, {size}{revision}, {origin.licence or 'licence not stated'}"


def _moved(source: Source, forge: Forge, origin: Origin) -> Iterator[str]:
    """That a set has another name by now: the old one goes on working until somebody else takes it."""
    if origin.kind == "hub":
        name = resolve(source, forge).source.id
        now = dataset_info(name, origin.revision).id
        if now != name:
            yield f"{name} is called {now} by now: write that into adam.toml"
