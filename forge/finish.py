"""The end of the shards: their manifest, what must be in it, and how they are published."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from adam.contract import schema
from adam.contract.config_forge import Forge
from adam.contract.durable import fsync_dir, replace_file, whole_lines
from adam.contract.errors import DataError
from adam.contract.paths import RunPaths
from adam.contract.shards import (
    SOURCES,
    SPLITS,
    UNOPENED,
    PhaseSummary,
    ShardManifest,
    SourceFile,
    SourceSummary,
)
from adam.forge.journal import Counts
from adam.forge.mix import PhaseState
from adam.forge.sources import Origin
from adam.forge.writer import heads_in


def publish(paths: RunPaths) -> ShardManifest:
    """Move finished files out of `.work`, the manifest last. Killed in between, it is only called again."""
    work = paths.shards_work
    manifest = schema.load(work / "manifest.json", ShardManifest)
    if manifest is None:
        raise DataError(f"{work} has no manifest to publish")
    for name in [*(file.name for file in manifest.files), SOURCES]:
        if (work / name).exists():
            (work / name).replace(paths.shards / name)
    fsync_dir(paths.shards)
    replace_file(paths.shards_manifest, schema.encode(manifest))
    shutil.rmtree(work)
    return manifest


def forget(paths: RunPaths) -> None:
    """Leave nothing behind of shards that can't be used."""
    shutil.rmtree(paths.shards_work)
    if not any(paths.shards.iterdir()):
        paths.shards.rmdir()


def check_not_empty(
    paths: RunPaths, origins: Sequence[Origin], counts: Sequence[Counts], splits: set[str], forge: Forge
) -> None:
    """Raise DataError, and forget the shards, where a source that was wanted gave nothing, or a split has nothing."""
    wanted = {name for phase in forge.phases for name in phase.shares} or {origin.name for origin in origins}
    for origin, count in zip(origins, counts, strict=True):
        asked = count.documents_read or count.files
        if asked and not count.documents_written and not count.given_up and origin.name in wanted:
            forget(paths)
            reasons = ", ".join(f"{reason} {n}" for reason, n in {**count.dropped, **count.files_skipped}.items())
            raise DataError(f"the source {origin.path} gave no document ({reasons or 'its files are empty'})")
    for split in SPLITS:
        if split not in splits:
            todo = _how_to_fill(
                split, [bytes.fromhex(head.id) for _, head in heads_in(paths.shards_work) if not head.group]
            )
            forget(paths)
            written = sum(count.documents_written for count in counts)
            raise DataError(f"no document of {written} fell into the {split} split", todo)


def _how_to_fill(split: str, ids: list[bytes]) -> str:
    """What to do about an empty split: the hashes of the documents say which share would fill it."""
    shares = sorted(int.from_bytes(digest[:8], "big") / 2**64 for digest in ids)
    if split == "val" and shares and (enough := shares[0] + 0.01) < min(0.4, shares[-1]):
        return f"add documents, or raise forge.val_fraction to {enough:.2f}"
    return "add documents"


def revisions(listing: Path) -> dict[str, str]:
    """Source -> a digest over the paths and digests of the files that were read."""
    digests: dict[str, hashlib._Hash] = {}
    for _, line in whole_lines(listing):
        file = msgspec.json.decode(line, type=SourceFile)
        if file.skipped not in UNOPENED:
            digests.setdefault(file.source, hashlib.sha256()).update(f"{file.path}\0{file.sha256}\n".encode())
    return {name: f"files-{digest.hexdigest()[:16]}" for name, digest in digests.items()}


def summary(origin: Origin, counts: Counts, revision: str) -> SourceSummary:
    """A source's part of the ledger. `revision`: of its files, where nothing else pins it."""
    return SourceSummary(
        name=origin.name,
        kind=origin.kind,
        path=origin.path,
        revision=origin.revision or (origin.path if origin.kind == "stdlib" else revision),
        licence=origin.licence,
        files=counts.files,
        documents_read=counts.documents_read,
        documents_written=counts.documents_written,
        characters_written=counts.characters_written,
        dropped=counts.dropped,
        files_skipped=counts.files_skipped,
        examples=counts.examples,
        masked=counts.masked,
        config=origin.source.config,
        split=origin.source.split,
        template=origin.source.template,
        given_up=counts.given_up,
        notes=origin.notes,
    )


def phase_summaries(forge: Forge, states: Sequence[PhaseState]) -> tuple[PhaseSummary, ...]:
    """Of the mixes; none where there were none."""
    return tuple(
        PhaseSummary(
            name=phase.name or str(number),
            unit=phase.unit,
            target=phase.target,
            when_dry=phase.when_dry,
            shares=phase.shares,
            taken=state.taken,
            starts=state.starts,
            ended=state.ended,
            notes=tuple(state.notes),
        )
        for number, (phase, state) in enumerate(zip(forge.phases, states, strict=False), 1)
    )
