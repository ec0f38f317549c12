"""What there is of checkpoints, and what is known of each: facts, for `adamctl checkpoints` to show."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from adam.contract.checkpoints import Manifest, list_checkpoints, parse_name, read_manifest
from adam.contract.clock import stamp
from adam.contract.config_file import load_config
from adam.contract.errors import CheckpointError, SchemaError
from adam.contract.paths import RunPaths
from adam.contract.pins import read_pins
from adam.contract.retention import rules_of, why_kept
from adam.contract.shared import sound_step
from adam.contract.snapshots import Snapshot, complete_snapshots

REASON = "REASON.txt"
DISK, RAM = "disk", "ram"
SEALED, VERIFIED, DAMAGED, UNKNOWN, QUARANTINED = "sealed", "verified", "damaged", "unknown", "quarantined"
COMPLETE = "complete"


class Entry(msgspec.Struct, kw_only=True):
    """A checkpoint, or a snapshot in memory. None: not known, because its manifest can't be read.

    `state`: sealed (its manifest and the sizes of its files are right), verified (every byte is), damaged, unknown (a newer
    Adam's), quarantined; of a snapshot in memory: complete. `kept`: why the keeper does not delete it; empty: it may go.
    `why`: why it was saved.
    """

    name: str
    path: str
    step: int
    attempt: int
    tier: str
    state: str
    error: str = ""  # what is wrong, or why it is in quarantine
    tokens: int | None = None
    bytes: int | None = None
    made: float | None = None
    age_s: float | None = None
    why: str | None = None
    parent: str | None = None
    pinned_by: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


def everything(paths: RunPaths) -> list[Entry]:
    """Checkpoints, oldest first, the snapshots in shared memory, then what is in quarantine."""
    return [*on_disk(paths), *in_memory(paths), *in_quarantine(paths)]


def in_memory(paths: RunPaths) -> list[Entry]:
    """Complete snapshots that a killed trainer could go on from, oldest first."""
    return [entry_of_snapshot(found) for found in reversed(complete_snapshots(paths)) if found.path.parent == paths.ram]


def entry_of_snapshot(snapshot: Snapshot) -> Entry:
    head, files = snapshot.head, [file.stat() for file in snapshot.files]
    made = max(file.st_mtime for file in files)
    return Entry(
        name=snapshot.name,
        path=str(snapshot.path),
        step=head.step,
        attempt=head.attempt,
        tier=RAM,
        state=COMPLETE,
        tokens=head.tokens,
        bytes=sum(file.st_size for file in files),
        made=made,
        age_s=max(0.0, stamp().wall - made),
        why=head.why,
        parent=head.parent,
    )


def on_disk(paths: RunPaths) -> list[Entry]:
    """Checkpoints with their pins, and why the keeper keeps them."""
    pins, rules = read_pins(paths), rules_of(load_config(paths.lock).checkpoint)
    entries = [entry_of(path, check_sizes) for path in list_checkpoints(paths.checkpoints)]
    entries = [entry for entry in entries if Path(entry.path).exists()]  # the keeper may have deleted one meanwhile
    kept = why_kept(entries, rules, pins, sound_step(paths))
    return [
        msgspec.structs.replace(entry, pinned_by=pins.get(entry.name, ()), kept=kept[entry.name]) for entry in entries
    ]


def entry_of(path: Path, check: Callable[[Path], Manifest]) -> Entry:
    """The entry of a checkpoint that `check` gives the manifest of; what `check` raises is told in the entry."""
    step, attempt = parse_name(path.name.partition(".")[0]) or (0, 0)
    entry = Entry(name=path.name, path=str(path), step=step, attempt=attempt, tier=DISK, state=SEALED)
    try:
        manifest = check(path)
    except CheckpointError as error:
        return msgspec.structs.replace(entry, state=DAMAGED, error=str(error))
    except SchemaError as error:
        return msgspec.structs.replace(entry, state=UNKNOWN, error=str(error))
    return msgspec.structs.replace(
        entry,
        tokens=manifest.tokens,
        bytes=sum(file.size for file in manifest.files),
        made=manifest.stamp.wall,
        age_s=manifest.stamp.age_s(stamp()),
        why=manifest.why,
        parent=manifest.parent,
    )


def check_sizes(path: Path) -> Manifest:
    """The manifest of a checkpoint whose files are there with their sizes. Raises CheckpointError, SchemaError."""
    manifest = read_manifest(path)
    for entry in manifest.files:
        file = path / entry.name
        if not file.is_file() or file.stat().st_size != entry.size:
            raise CheckpointError(f"{file} is not there with its {entry.size} bytes")
    return manifest


def in_quarantine(paths: RunPaths) -> list[Entry]:
    """What the keeper has put away, and why; the rest is told where it can still be read."""
    places = sorted(paths.quarantine.iterdir()) if paths.quarantine.is_dir() else []
    entries = [entry_of(path, read_manifest) for path in places]
    return [msgspec.structs.replace(entry, state=QUARANTINED, error=reason_of(Path(entry.path))) for entry in entries]


def reason_of(place: Path) -> str:
    reason = place / REASON
    return reason.read_text().strip() if reason.is_file() else "its reason was not written down"
