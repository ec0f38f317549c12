"""The configuration of the forge: where documents come from, which are kept, and what becomes of them."""

import hashlib
import math
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from adam.contract.config_filters import FilterOverrides, Filters, filter_contradictions, text_filters
from adam.contract.config_skeletons import Skeletons, skeleton_contradictions
from adam.contract.section import Section

# A digest counts these always, as it did before there were others; newer keys only where they are not at their default.
FIRST_KEYS = {
    "Source": ("kind", "path", "name", "licence"),
    "Forge": ("sources", "val_fraction", "min_chars", "max_chars", "shard_mb", "tokenizer", "vocab_size"),
}
# They change how long it takes, not what comes out.
NOT_COUNTED = {"Skeletons": ("processes",), "Forge": ("workers", "retry_minutes")}


class Source(Section, frozen=True):
    """Where documents come from. What is left empty is the registry's where `id` names one of its sets."""

    kind: Annotated[
        Literal["files", "stdlib", "hub"],
        Meta(
            description="files: a file or folder of yours; stdlib: the Python that Adam runs on, as text to try things with; "
            "hub: a data set of the Hugging Face Hub (so is what has an id and no path)"
        ),
    ] = "files"
    path: Annotated[
        str,
        Meta(
            description="the file or folder (kind files); a relative one is seen from the run directory; "
            "with an id: the set's files, fetched before"
        ),
    ] = ""
    name: Annotated[str, Meta(description="how records and reports call this source; empty: the folder's name")] = ""
    licence: Annotated[
        str, Meta(description="written into the manifest, for whoever asks later what the model was trained on")
    ] = ""
    id: Annotated[str, Meta(description="a set of the registry (`adamctl forge sources`), or USER/NAME on the Hub")] = (
        ""
    )
    config: Annotated[str, Meta(description="the set's configuration on the Hub; empty: its only one")] = ""
    split: Annotated[str, Meta(description="the set's split on the Hub; empty: train")] = ""
    revision: Annotated[
        str, Meta(description="a commit on the Hub; empty: the newest at the first start, kept from then on")
    ] = ""
    files: Annotated[
        tuple[str, ...], Meta(description="patterns of the files to take, such as data/train-*.parquet; empty: all")
    ] = ()
    template: Annotated[
        str,
        Meta(
            description='columns to text, such as "Question: {question}\nReasoning: {answer}"; empty: the column text'
        ),
    ] = ""
    answers: Annotated[
        tuple[str, ...],
        Meta(description="columns of the template that answer; what is before them is kept as their prompt"),
    ] = ()
    messages: Annotated[
        str, Meta(description="a column with a conversation: a list of messages, or a transcript (then `turns`)")
    ] = ""
    turns: Annotated[
        dict[str, str],
        Meta(description='how turns of a transcript begin, and whose they are: { "USER:" = "prompt", … }'),
    ] = {}
    where: Annotated[
        dict[str, tuple[str, ...]],
        Meta(description="columns and the values that are taken; other records are dropped as not_selected"),
    ] = {}
    meta: Annotated[
        dict[str, str], Meta(description='what is kept with each document, and of which column: { title = "title" }')
    ] = {}
    text: Annotated[
        Literal["", "prose", "code", "books"],
        Meta(
            description="what it is; code is never masked; books: prose that loses Project Gutenberg's licence and notes and whose parts "
            "stay in one split; empty: by the file's ending"
        ),
    ] = ""
    cut_chars: Annotated[
        int, Meta(ge=0, description="records are cut to so many characters (the seed's: 4096); 0: never")
    ] = 0
    chars_per_token: Annotated[
        float, Meta(ge=0, description="for shares by tokens; 0: 4.5 of prose and 3.2 of code, as GPT-NeoX has")
    ] = 0.0
    masked: Annotated[
        bool, Meta(description="forge.skeletons may mask its prose; code is never masked, whatever is said here")
    ] = True
    min_chars: Annotated[int, Meta(ge=0, description="as forge.min_chars, for this source; 0: that one")] = 0
    filters: Annotated[
        FilterOverrides,
        Meta(description="rules of [forge.filters] that are others for this source: { min_words = 50 }"),
    ] = FilterOverrides()


class RegistryEntry(Section, frozen=True):
    """A set that is known by name: how to read it, what it costs, and what has changed."""

    id: str
    name: str = ""
    config: str = ""
    split: str = ""
    revision: str = ""
    files: tuple[str, ...] = ()
    template: str = ""
    answers: tuple[str, ...] = ()
    messages: str = ""
    turns: dict[str, str] = {}
    where: dict[str, tuple[str, ...]] = {}
    meta: dict[str, str] = {}
    text: Literal["", "prose", "code", "books"] = ""
    licence: str = ""
    gated: bool = False
    gone: Annotated[str, Meta(description="why it can't be had any more; empty: it can")] = ""
    successor: Annotated[str, Meta(description="the entry to take in its place")] = ""
    rows: int = 0
    download_bytes: int = 0
    note: Annotated[str, Meta(description="what is known to have changed, or to be minded")] = ""


class Phase(Section, frozen=True):
    """One mix. Shares are kept at every moment of it: of documents to less than one, of characters and tokens to a document."""

    shares: Annotated[
        dict[str, float], Meta(description="name of a source -> its share, in any unit: they are added up")
    ]
    name: Annotated[str, Meta(description="in manifest and reports; empty: its number")] = ""
    unit: Annotated[
        Literal["documents", "characters", "tokens"],
        Meta(description="what shares and target count; tokens are reckoned from characters"),
    ] = "documents"
    target: Annotated[int, Meta(ge=0, description="the phase ends here; 0: when its sources are dry")] = 0
    when_dry: Annotated[
        Literal["redistribute", "repeat", "stop"],
        Meta(
            description="what a source that is at its end means; redistribute: the others take its share over; "
            "repeat: it is read again, `repeats` times at most, then as redistribute; stop: the phase ends"
        ),
    ] = "redistribute"
    repeats: Annotated[int, Meta(ge=1, description="how often a dry source is read again")] = 1


class Forge(Section, frozen=True):
    sources: Annotated[tuple[Source, ...], Meta(min_length=1, description="where documents come from")] = (
        Source(kind="stdlib"),
    )
    val_fraction: Annotated[
        float,
        Meta(gt=0, lt=0.5, description="share of documents held out for validation, chosen by the hash of their text"),
    ] = 0.01
    val_apart: Annotated[
        bool,
        Meta(
            description="documents that are like each other (as filters.near_duplicates says, else 0.8) are kept on one side: a later one "
            "goes where the earlier one is"
        ),
    ] = True
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
    phases: Annotated[
        tuple[Phase, ...],
        Meta(description="mixes, one after the other; empty: every source to its end, in order"),
    ] = ()
    registry: Annotated[
        tuple[RegistryEntry, ...], Meta(description="sets of yours beside the known ones; an equal name replaces one")
    ] = ()
    retry_minutes: Annotated[
        float,
        Meta(ge=0, description="how long a source that fails is tried again, before the others go on without it"),
    ] = 30.0
    workers: Annotated[
        int, Meta(ge=0, description="processes that filter documents; 0: as many as there are cores for this process")
    ] = 0
    filters: Filters = Filters()
    skeletons: Skeletons = Skeletons()


def forge_contradictions(forge: Forge) -> list[str]:
    """See `contract.config.contradictions`."""
    found = []
    if forge.min_chars > forge.max_chars:
        found.append(f"forge.min_chars = {forge.min_chars}: must not exceed forge.max_chars = {forge.max_chars}")
    found += filter_contradictions(forge.filters, "forge.filters")
    for number, source in enumerate(forge.sources):
        if source.kind == "files" and not (source.path or source.id):
            found.append(f"forge.sources[{number}].path is empty: must name a file or folder (or id a set)")
        if source.kind == "hub" and not source.id:
            found.append(
                f"forge.sources[{number}].id is empty: must name a set of the registry, or USER/NAME on the Hub"
            )
        own = text_filters(forge.filters, source.filters)
        found += filter_contradictions(own, f"forge.sources[{number}].filters")
    for number, phase in enumerate(forge.phases):
        found += [f"forge.phases[{number}].{line}" for line in _phase_problems(phase)]
    return found + skeleton_contradictions(forge.skeletons)


def _phase_problems(phase: Phase) -> list[str]:
    if not phase.shares:
        return ["shares is empty: must name the sources of this mix"]
    wrong = [
        f"shares.{name} = {share}: must be above 0" for name, share in phase.shares.items() if not 0 < share < math.inf
    ]
    if phase.target == 0 and phase.when_dry == "repeat":
        wrong.append('target = 0: must be above 0 where when_dry = "repeat"')
    return wrong


def forge_digest(forge: Forge) -> str:
    """A digest of what shards are made by. A new key that nobody uses makes no other data of the old ones."""
    return hashlib.sha256(msgspec.json.encode([_counted(forge)], order="sorted")).hexdigest()


def _counted(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_counted(item) for item in value]
    if not isinstance(value, Section):
        return value
    first, found = FIRST_KEYS.get(type(value).__name__, ()), {}
    left_out = NOT_COUNTED.get(type(value).__name__, ())
    for field in msgspec.structs.fields(value):
        if field.name in left_out:
            continue
        item = getattr(value, field.name)
        counted = _counted(item)
        if field.name in first or (item != _default_of(field) and counted != {}):
            found[field.name] = counted
    return found


def _default_of(field: msgspec.structs.FieldInfo) -> Any:
    return field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
