"""What watchdog and keeper say to one another: one line of JSON each way, one answer to each request."""

import msgspec

from adam.contract.records import CheckpointSeen, SnapshotSeen
from adam.watchdog.retention import Kept


class Commit(msgspec.Struct, frozen=True, tag_field="request", tag="commit"):
    """Look at the slots now and commit the newest snapshot: of the lease's holder, or the one called `resumed` that it began from.

    `durable_only`: leave those that are for the next attempt alone.
    """

    resumed: str = ""
    durable_only: bool = False


class Settle(msgspec.Struct, frozen=True, tag_field="request", tag="settle"):
    """After an attempt and before the next: keep, commit or drop what the dead one left, and find a checkpoint that verifies.

    `resumed`: see Commit. `commit`: leave nothing in memory only; else a snapshot there is what the next attempt begins from.
    `verify`: trust nothing that was verified earlier. `quarantine`: a checkpoint to put away first, for `reason`; so are all checkpoints, and
    dropped all snapshots, of steps above `beyond` (-1: none).
    """

    id: int
    token: int
    resumed: str = ""
    commit: bool = True
    verify: bool = False
    quarantine: str = ""
    reason: str = ""
    beyond: int = -1


class Prune(msgspec.Struct, frozen=True, tag_field="request", tag="prune"):
    """Delete the checkpoints that retention gives free."""


class Look(msgspec.Struct, frozen=True, tag_field="request", tag="look"):
    """Say what is there, and see to it that one checkpoint is known to be right: a watchdog that has just begun knows nothing of them."""


Request = Commit | Settle | Prune | Look


class Committed(msgspec.Struct, frozen=True):
    name: str
    step: int
    why: str
    size: int  # bytes
    seconds: float
    staged: bool = False  # its slot was on the disk too: every byte was written twice


class PutAway(msgspec.Struct, frozen=True):
    """A checkpoint in quarantine, or a snapshot that was dropped."""

    name: str
    reason: str


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of a request. `trouble`: could not be done now, ask again later. `refused`: no use in asking again."""

    request: str
    id: int = 0
    token: int = 0
    committed: Committed | None = None
    milestones: tuple[Committed, ...] = ()  # committed before it, oldest first
    saves: int = 0  # the last save request that a verified checkpoint answers
    dropped: tuple[PutAway, ...] = ()
    quarantined: tuple[PutAway, ...] = ()
    pruned: tuple[str, ...] = ()
    checkpoints: tuple[Kept, ...] = ()  # oldest first
    snapshot: SnapshotSeen | None = None  # complete, in memory, and not on disk yet
    newest: CheckpointSeen | None = None  # the newest verified one
    in_quarantine: int = 0
    note: str = ""  # why no checkpoint is deleted
    trouble: str = ""
    refused: str = ""
