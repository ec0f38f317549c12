"""The directory of checkpoints, as the keeper handles it: what is there, what is known to be right, putting away, deleting."""

import fcntl
from contextlib import suppress
from pathlib import Path

import msgspec

from adam.contract.checkpoints import list_checkpoints, parse_name, read_manifest, verify
from adam.contract.durable import fsync_dir, remove_tree, replace_file
from adam.contract.errors import CheckpointError, DataError, SchemaError
from adam.contract.flock import flocked
from adam.contract.paths import RunPaths
from adam.contract.pins import read_pins
from adam.contract.records import CheckpointSeen
from adam.contract.retention import Rules
from adam.contract.shared import sound_step
from adam.watchdog.retention import Kept, superfluous

TEMPORARY, TRASH = ".tmp-", ".trash-"
Identity = tuple[tuple[str, int, int, int], ...]


class Store:
    """`checkpoints/` of one run. One keeper writes it; everybody may read it.

    Args:
        keep_last, milestone_every, keep_every_hours: see `contract.retention`.
    """

    def __init__(
        self, paths: RunPaths, keep_last: int, milestone_every: int = 0, keep_every_hours: float = 0.0
    ) -> None:
        self.paths = paths
        self.trouble = ""  # why nothing was deleted; empty: retention does its work
        self._rules = Rules(keep_last, milestone_every, keep_every_hours)
        self._verified: dict[str, Identity] = {}
        self._made: dict[str, tuple[Identity, float | None]] = {}
        self._pruned: list[str] = []

    def clean(self) -> None:
        """Make the directory, durably, and remove what a dead keeper left in it half made or half deleted."""
        self.paths.checkpoints.mkdir(exist_ok=True)
        fsync_dir(self.paths.root)
        self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        """What can't be removed stays: it is in nobody's way, and is tried again behind each commit."""
        # Before anything is gone: or a crash could bring a deleted checkpoint back without its files. And a checkpoint
        # that a dead keeper had just given its name is about to be relied on.
        fsync_dir(self.paths.checkpoints)
        for path in list(self.paths.checkpoints.iterdir()):
            if path.name.startswith((TEMPORARY, TRASH)):
                with suppress(OSError):
                    remove_tree(path)

    def listing(self) -> list[Kept]:
        """The checkpoints, oldest first."""
        found = []
        for path in list_checkpoints(self.paths.checkpoints):
            step, attempt = parse_name(path.name) or (0, 0)
            found.append(Kept(path.name, step, attempt, self.is_verified(path.name), self._made_at(path.name)))
        return found

    def _made_at(self, name: str) -> float | None:
        """When it was made; None where its manifest can't be read. Read again only where its files were touched."""
        identity = _identity(self.directory(name))
        known = self._made.get(name)
        if known is None or known[0] != identity:
            known = self._made[name] = (identity, _time_of(self.directory(name)))
        return known[1]

    def directory(self, name: str) -> Path:
        return self.paths.checkpoints / name

    def is_verified(self, name: str) -> bool:
        """True where this process has checked every byte of it, and its files have not been touched since."""
        return name in self._verified and self._verified[name] == _identity(self.directory(name))

    def mark_verified(self, name: str) -> None:
        self._verified[name] = _identity(self.directory(name))

    def check(self, name: str) -> None:
        """Verify every byte. Raises CheckpointError (bad), SchemaError (a newer Adam's), OSError (the disk)."""
        before = _identity(self.directory(name))
        verify(self.directory(name))
        self._verified[name] = before

    def confirm(self, name: str) -> bool:
        """True where a checkpoint that is there is right; it is durable then. Raises OSError."""
        fsync_dir(self.paths.checkpoints)
        try:
            self.check(name)
        except CheckpointError:
            return False
        except SchemaError:
            return True  # a newer Adam's: not to be judged here, and not to be made again
        return True

    def confirm_newest(self) -> None:
        """See to it that one checkpoint is known to be right, where there is one: a keeper that has just started knows none."""
        there = self.listing()
        if not any(kept.verified for kept in there):
            next((kept for kept in reversed(there) if self.confirm(kept.name)), None)

    def newest_verified(self) -> CheckpointSeen | None:
        """One whose manifest can no longer be read is not verified any more: the next settling checks it, and puts it away."""
        for kept in reversed(self.listing()):
            if not kept.verified:
                continue
            try:
                made = read_manifest(self.directory(kept.name)).stamp
            except (CheckpointError, OSError):
                self._verified.pop(kept.name)
                continue
            return CheckpointSeen(kept.name, kept.step, True, made)
        return None

    def quarantine(self, name: str, reason: str) -> None:
        """Put a checkpoint away, with the reason beside it."""
        self.paths.quarantine.mkdir(exist_ok=True)
        target = self.paths.quarantine / name
        number = 1
        while target.exists():
            number += 1
            target = self.paths.quarantine / f"{name}.{number}"
        self.directory(name).rename(target)
        self._verified.pop(name, None)
        fsync_dir(self.paths.quarantine)
        fsync_dir(self.paths.checkpoints)
        with suppress(OSError):  # it is out of the way all the same, and an event has the reason too
            replace_file(target / "REASON.txt", f"{reason}\n".encode())

    def in_quarantine(self) -> int:
        return len(list(self.paths.quarantine.iterdir())) if self.paths.quarantine.is_dir() else 0

    def prune(self, keep_last: int | None = None) -> None:
        """Delete what retention gives free (with fewer kept where room is needed)."""
        rules = msgspec.structs.replace(self._rules, keep_last=keep_last) if keep_last else self._rules
        self.trouble = ""
        try:
            sound = 0 if keep_last else sound_step(self.paths)
            for name in superfluous(self.listing(), rules, read_pins(self.paths), sound):
                self._discard_unless_wanted(name)
        except (DataError, SchemaError) as error:
            self.trouble = f"no checkpoint is deleted: {error}"
        self._remove_leftovers()

    def take_pruned(self) -> tuple[str, ...]:
        """The names deleted since the last call, oldest first."""
        names, self._pruned = tuple(self._pruned), []
        return names

    def _discard_unless_wanted(self, name: str) -> None:
        """Leave it to the next time where somebody holds it, for ever where somebody pinned it meanwhile (see `contract.pins`).

        It is renamed only, under the lock: half deleted, it is never taken for a checkpoint.
        """
        with flocked(self.directory(name), fcntl.LOCK_EX | fcntl.LOCK_NB) as free:
            if not free or read_pins(self.paths).get(name):
                return
            self.directory(name).rename(self.paths.checkpoints / f"{TRASH}{name}")
        self._verified.pop(name, None)
        self._made.pop(name, None)
        self._pruned.append(name)


def _time_of(directory: Path) -> float | None:
    try:
        return read_manifest(directory).stamp.wall
    except (CheckpointError, SchemaError, OSError):
        return None


def _identity(directory: Path) -> Identity:
    """Name, inode, time of change and size of each file: equal while nobody has touched them."""
    found = []
    for path in sorted(directory.iterdir()):
        status = path.stat()
        found.append((path.name, status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(found)
