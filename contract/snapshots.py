"""Snapshots: slots whose every rank has written its file, in shared memory or staged on the checkpoints' disk.

slot-0/rank-00000.safetensors  slot-0/rank-00001.safetensors …      one snapshot: the same attempt, sequence and step
"""

from pathlib import Path

import msgspec

from adam.contract.checkpoints import checkpoint_name, rank_file
from adam.contract.errors import CheckpointError
from adam.contract.paths import RunPaths
from adam.contract.slots import SlotHead, read_head

SLOTS = "slot-*"


class Snapshot(msgspec.Struct, frozen=True):
    """A complete slot. `head` is that of rank 0."""

    path: Path
    head: SlotHead

    @property
    def files(self) -> list[Path]:
        return [self.path / rank_file(rank) for rank in range(self.head.world)]

    @property
    def name(self) -> str:
        """What its checkpoint is called, or would be."""
        return checkpoint_name(self.head.step, self.head.attempt)

    @property
    def order(self) -> tuple[int, int]:
        return self.head.attempt, self.head.sequence


def slot_path(place: Path, number: int) -> Path:
    return place / f"slot-{number}"


def read_snapshot(slot: Path) -> Snapshot | None:
    """The snapshot in a slot; None where any rank's file is missing or incomplete, or belongs to another snapshot.

    Raises CheckpointError where a header makes no sense.
    """
    first = read_head(slot / rank_file(0))
    if first is None:
        return None
    snapshot = Snapshot(slot, first[0])
    for rank, path in enumerate(snapshot.files):
        found = read_head(path)
        if found is None or _identity(found[0]) != _identity(first[0]) or found[0].rank != rank:
            return None
    return snapshot


def _identity(head: SlotHead) -> tuple[str, int, int, int, int, int]:
    return head.run, head.token, head.attempt, head.sequence, head.step, head.world


def slots_of(paths: RunPaths) -> list[Path]:
    """All slots of a run, whatever is in them: those in memory first."""
    places = [paths.staging]
    if paths.root.is_dir():
        places.insert(0, paths.ram)
    return [slot for place in places for slot in sorted(place.glob(SLOTS)) if slot.is_dir()]


def empty(slot: Path) -> bool:
    """Take a slot for one without a snapshot, and keep its memory for the next attempt: to free and allocate 33 GB takes seconds, for
    which the run would stand still. False where that can't be done."""
    try:
        for path in slot.glob("*.safetensors"):
            with path.open("r+b", buffering=0) as file:
                file.write(bytes(8))  # see SlotWriter: the header's length
    except OSError:
        return False
    return True


def complete_snapshots(paths: RunPaths) -> list[Snapshot]:
    """The complete ones, newest first; those that can't be read are left out."""
    found = []
    for slot in slots_of(paths):
        try:
            snapshot = read_snapshot(slot)
        except CheckpointError:
            continue
        if snapshot is not None:
            found.append(snapshot)
    return sorted(found, key=lambda snapshot: snapshot.order, reverse=True)
