"""The configuration of the forge: where documents come from, which are kept, and what becomes of them."""

import hashlib
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from adam.contract.config_filters import FilterOverrides, Filters, filter_contradictions, text_filters
from adam.contract.section import Section

# A digest counts these always, as it did before there were others; newer keys only where they are not at their default.
FIRST_KEYS = {
    "Source": ("kind", "path", "name", "licence"),
    "Forge": ("sources", "val_fraction", "min_chars", "max_chars", "shard_mb", "tokenizer", "vocab_size"),
}

NEVER_COUNTED = ("workers",)  # they change how long it takes, not what comes out


class Source(Section, frozen=True):
    kind: Annotated[
        Literal["files", "stdlib"],
        Meta(
            description="files: a file or folder of yours; stdlib: the Python that Adam runs on, as text to try things with"
        ),
    ] = "files"
    path: Annotated[
        str, Meta(description="the file or folder (kind files); a relative one is seen from the run directory")
    ] = ""
    name: Annotated[str, Meta(description="how records and reports call this source; empty: the folder's name")] = ""
    licence: Annotated[
        str, Meta(description="written into the manifest, for whoever asks later what the model was trained on")
    ] = ""
    filters: Annotated[
        FilterOverrides,
        Meta(description="rules of [forge.filters] that are others for this source: { min_words = 50 }"),
    ] = FilterOverrides()


class Forge(Section, frozen=True):
    sources: Annotated[tuple[Source, ...], Meta(min_length=1, description="where documents come from")] = (
        Source(kind="stdlib"),
    )
    val_fraction: Annotated[
        float,
        Meta(gt=0, lt=0.5, description="share of documents held out for validation, chosen by the hash of their text"),
    ] = 0.01
    min_chars: Annotated[int, Meta(ge=1, description="shorter documents are dropped (and counted)")] = 64
    max_chars: Annotated[int, Meta(ge=1, description="longer documents are dropped (and counted)")] = 4_000_000
    shard_mb: Annotated[
        int, Meta(ge=1, description="a shard file is closed when it has reached this many megabytes")
    ] = 256
    tokenizer: Annotated[
        str,
        Meta(
            min_length=1,
            description="train: a byte-level BPE learnt from the train split; else a tokenizer.json or the name of one on the Hub",
        ),
    ] = "train"
    vocab_size: Annotated[
        int,
        Meta(
            ge=257,
            le=1_000_000,
            description="of the tokenizer that is trained (256 bytes and the document mark are part of it)",
        ),
    ] = 4096
    workers: Annotated[
        int, Meta(ge=0, description="processes that filter documents; 0: as many as there are cores for this process")
    ] = 0
    filters: Filters = Filters()


def forge_contradictions(forge: Forge) -> list[str]:
    """See `contract.config.contradictions`."""
    found = []
    if forge.min_chars > forge.max_chars:
        found.append(f"forge.min_chars = {forge.min_chars}: must not exceed forge.max_chars = {forge.max_chars}")
    found += filter_contradictions(forge.filters, "forge.filters")
    for number, source in enumerate(forge.sources):
        if source.kind == "files" and not source.path:
            found.append(f"forge.sources[{number}].path is empty: must name a file or folder")
        own = text_filters(forge.filters, source.filters)
        found += filter_contradictions(own, f"forge.sources[{number}].filters")
    return found


def forge_digest(forge: Forge) -> str:
    """A digest of what shards are made by. A new key that nobody uses makes no other data of the old ones."""
    return hashlib.sha256(msgspec.json.encode([_counted(forge)], order="sorted")).hexdigest()


def _counted(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_counted(item) for item in value]
    if not isinstance(value, Section):
        return value
    first, found = FIRST_KEYS.get(type(value).__name__, ()), {}
    for field in msgspec.structs.fields(value):
        item = getattr(value, field.name)
        if field.name in first or (item != field.default and field.name not in NEVER_COUNTED):
            found[field.name] = _counted(item)
    return found
