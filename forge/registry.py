"""The sets that are known by name: `registry.toml` beside this file, and `[[forge.registry]]` of the configuration."""

import functools
import tomllib
from pathlib import Path
from typing import NamedTuple

import msgspec

from adam.contract.config_forge import Forge, RegistryEntry, Source
from adam.contract.errors import ConfigError

SHIPPED = Path(__file__).with_name("registry.toml")
# What a source's section may say differently than the registry. Empty in the section: the registry's.
SHARED = (
    "config",
    "split",
    "revision",
    "files",
    "template",
    "answers",
    "messages",
    "turns",
    "where",
    "meta",
    "text",
    "licence",
)


class Resolved(NamedTuple):
    """A source with what the registry knows filled in, and what there is to be said about it."""

    source: Source
    entry: RegistryEntry | None
    notes: tuple[str, ...]


@functools.cache
def shipped() -> tuple[RegistryEntry, ...]:
    raw = tomllib.loads(SHIPPED.read_text())
    return tuple(msgspec.convert({"name": name, **table}, RegistryEntry) for name, table in raw.items())


def entries(forge: Forge) -> dict[str, RegistryEntry]:
    """All sets by their names; those of the configuration replace shipped ones of that name."""
    own = {entry.name or entry.id: entry for entry in forge.registry}
    return {entry.name: entry for entry in shipped()} | own


def find(name: str, known: dict[str, RegistryEntry]) -> RegistryEntry | None:
    """The entry of that name, else the first of that id on the Hub."""
    return known.get(name) or next((entry for entry in known.values() if entry.id == name), None)


def resolve(source: Source, forge: Forge) -> Resolved:
    """Fill in what the registry knows. A set that is gone gives way to its successor, and a note says so.

    Raises ConfigError for a set that is gone and has none, and for an id that is neither known nor USER/NAME.
    """
    if not source.id or source.kind == "stdlib":
        return Resolved(source, None, ())
    known = entries(forge)
    entry, notes = find(source.id, known), []
    while entry is not None and entry.gone and not source.path:
        if not entry.successor:
            raise ConfigError(f"{source.id} can't be had: {entry.gone}", "take it out of forge.sources in adam.toml")
        notes.append(f"{entry.id} {entry.gone}: {entry.successor} is taken in its place")
        entry = find(entry.successor, known)
    if entry is None and "/" not in source.id and not source.path:
        raise ConfigError(
            f"{source.id!r} is no set of the registry",
            "`adamctl forge sources` lists them; sets of the Hub are USER/NAME",
        )
    kind = "files" if source.path else "hub"
    filled = {"kind": kind, "name": source.name or (entry.name if entry else source.id.rpartition("/")[2])}
    if entry is not None:
        filled |= {name: getattr(entry, name) for name in SHARED if not getattr(source, name)}
        filled["id"] = entry.id
    return Resolved(msgspec.structs.replace(source, **filled), entry, tuple(notes))
