"""The keeper: the only one that commits, verifies, quarantines and deletes checkpoints. A process of its own, without policy.

    python -P -m adam.watchdog.keeper --run DIR --parent PID --keep-last N --milestone-every N --keep-every-hours N

Reads a request a line from stdin and writes an answer a line to stdout (`keeper_words`); ends when stdin does.
"""

import argparse
import errno
import math
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from adam.contract.checkpoints import parse_name
from adam.contract.durable import fsync_dir, is_at, remove_tree
from adam.contract.errors import AdamError, CheckpointError, DiskError, SchemaError, run_main
from adam.contract.lease import lease_is_held, read_lease
from adam.contract.paths import RunPaths
from adam.contract.process import die_with_parent
from adam.contract.ram import hold, remove_stale
from adam.contract.records import SnapshotSeen
from adam.contract.slots import MILESTONE, read_head
from adam.contract.snapshots import Snapshot, complete_snapshots, empty, read_snapshot, slots_of
from adam.contract.steplog import NO_ROW, newest_row, write_left_behind
from adam.contract.sums import check_sums
from adam.watchdog.commit import commit, is_committed
from adam.watchdog.frozen import FrozenWatchdog, lines_from
from adam.watchdog.keeper_words import Answer, Commit, Committed, Look, Prune, PutAway, Request, Settle
from adam.watchdog.store import Store


class Keeper:
    """Carries out requests on the checkpoints of one run, one at a time."""

    def __init__(self, store: Store) -> None:
        self._store, self._paths = store, store.paths
        self._bad: set[tuple[int, int]] = set()  # order of snapshots whose bytes are wrong
        self._saves = 0
        self._there: dict[str, Any] = {}

    def answer(self, request: Request) -> Answer:
        """Carry out a request. A disk or a file that is bad, in whatever way, is trouble to be told, and no reason to end."""
        try:
            answer = self._carried_out(request)
        except AdamError as error:
            in_vain = isinstance(error, SchemaError) and isinstance(request, Settle)
            answer = Answer("", refused=str(error)) if in_vain else Answer("", trouble=str(error))
        except OSError as error:
            answer = Answer("", trouble=self._told(error, "the checkpoints could not be put in order"))
        try:
            self._there = self._look_around()
        except OSError as error:  # what was there before is told again
            trouble = answer.trouble or self._told(error, "the checkpoints could not be looked at")
            answer = msgspec.structs.replace(answer, trouble=trouble)
        about = {"id": request.id, "token": request.token} if isinstance(request, Settle) else {}
        pruned, note = self._store.take_pruned(), self._store.trouble
        kind = type(request).__name__.lower()
        return msgspec.structs.replace(
            answer, request=kind, saves=self._saves, pruned=pruned, note=note, **self._there, **about
        )

    def _carried_out(self, request: Request) -> Answer:
        match request:
            case Commit():
                return self._committed(request.resumed, request.durable_only)
            case Settle():
                return self._settle(request)
            case Prune():
                self._store.prune()
            case Look():
                self._store.confirm_newest()
        return Answer("")

    def _look_around(self) -> dict[str, Any]:
        """What is on disk now. The newest comes first: a manifest that has rotted is no longer verified in the listing then."""
        newest = self._store.newest_verified()
        there = tuple(self._store.listing())
        return {"newest": newest, "checkpoints": there, "in_quarantine": self._store.in_quarantine()}

    def _told(self, error: OSError, what: str) -> str:
        return f"{what}: {error.strerror or error} ({error.filename or self._paths.checkpoints})"

    def _own(self, resumed: str) -> list[Snapshot]:
        """The good snapshots of the last holder of the lease, and the one that it began from; newest first."""
        lease = read_lease(self._paths)
        return [
            snapshot
            for snapshot in complete_snapshots(self._paths)
            if lease is not None
            and snapshot.head.run == self._paths.identity
            and (snapshot.head.token == lease.token or snapshot.name == resumed)
            and snapshot.order not in self._bad
        ]

    def _committed(self, resumed: str, durable_only: bool = False) -> Answer:
        """Commit the milestones and the newest snapshot that are not on disk yet, where there are any, and prune behind them."""
        dropped: list[PutAway] = []
        milestones: list[Committed] = []
        committed: Committed | None = None
        trouble = ""
        try:
            self._commit_milestones(resumed, milestones, dropped)
            committed = self._commit_newest(resumed, durable_only, dropped)
            self._store.prune()
        except DiskError as error:
            trouble = str(error)
        except OSError as error:
            trouble = self._told(error, "the checkpoint could not be written")
        found = tuple(milestones)
        return Answer("", committed=committed, milestones=found, dropped=tuple(dropped), trouble=trouble)

    def _commit_milestones(self, resumed: str, made: list[Committed], dropped: list[PutAway]) -> None:
        """Those that a busy keeper has not come to yet, behind which there are newer snapshots by now; oldest first."""
        for snapshot in reversed(self._own(resumed)[1:]):
            if snapshot.head.why != MILESTONE or is_committed(self._store, snapshot.head):
                continue
            if committed := self._commit_one(snapshot, dropped):
                made.append(committed)

    def _commit_newest(self, resumed: str, durable_only: bool, dropped: list[PutAway]) -> Committed | None:
        for snapshot in self._own(resumed):
            if durable_only and not snapshot.head.durable:
                continue
            if is_committed(self._store, snapshot.head):
                self._saves = max(self._saves, snapshot.head.saves)
                return None
            if committed := self._commit_one(snapshot, dropped):
                return committed
        return None

    def _commit_one(self, snapshot: Snapshot, dropped: list[PutAway]) -> Committed | None:
        """None where its slot is being written, or its bytes are wrong."""
        try:
            committed = commit(self._store, snapshot)
        except CheckpointError as error:
            self._bad.add(snapshot.order)
            dropped.append(PutAway(snapshot.path.name, str(error)))
            return None
        if committed is not None:
            self._saves = max(self._saves, snapshot.head.saves)
        return committed

    def _settle(self, request: Settle) -> Answer:
        if lease_is_held(self._paths):
            return Answer("", trouble="the lease is held: a program still runs")
        return self._put_in_order(request)

    def _put_in_order(self, request: Settle) -> Answer:
        """Nobody trains: keep, commit or drop what is left, and find a checkpoint that verifies."""
        self._store.clean()
        dropped = self._drop_distrusted(request)
        put_away = self._put_beyond_away(request)
        left = None if request.commit else self._left_in_memory(request.resumed)
        answer = self._save_milestones(left, request.resumed) if left else self._logged_and_committed(request)
        if not answer.trouble:
            dropped += self._drop_strangers(request)
        if not answer.trouble and request.commit:
            shutil.rmtree(self._paths.ram, ignore_errors=True)
        answer = msgspec.structs.replace(answer, dropped=answer.dropped + tuple(dropped), quarantined=put_away)
        if left is not None and not (request.verify or request.quarantine):
            return answer  # the next attempt begins in memory: the disk is read when nobody waits for it (`afterwards`)
        try:
            return msgspec.structs.replace(answer, quarantined=put_away + self._find_good(request))
        except SchemaError as error:
            return msgspec.structs.replace(answer, refused=str(error))

    def _save_milestones(self, left: SnapshotSeen, resumed: str) -> Answer:
        """The next attempt writes over all but `left`, which it begins from. A disk that is full costs the milestone, not the start."""
        made: list[Committed] = []
        dropped: list[PutAway] = []
        try:
            self._commit_milestones(resumed, made, dropped)
        except (DiskError, OSError) as error:
            dropped.append(PutAway(MILESTONE, str(error)))
        return Answer("", snapshot=left, milestones=tuple(made), dropped=tuple(dropped))

    def afterwards(self) -> None:
        """What is left to do when an answer has been given: that one checkpoint on disk is known to be right, before it is needed."""
        with suppress(OSError, AdamError):  # told by the next request, which meets it too
            self._store.confirm_newest()

    def _logged_and_committed(self, request: Settle) -> Answer:
        """After a trainer's death: first its rows that wait in memory, then its snapshot, which must not be ahead of them."""
        with suppress(DiskError):  # what follows may make room
            write_left_behind(self._paths)
        answer = self._committed(request.resumed)
        try:
            write_left_behind(self._paths)
        except DiskError as error:
            # They wait for the next attempt, unless the memory is given back now.
            trouble = str(error) if request.commit else ""
            answer = msgspec.structs.replace(answer, trouble=answer.trouble or trouble)
        return answer

    def _left_in_memory(self, resumed: str) -> SnapshotSeen | None:
        """The newest snapshot in memory where no checkpoint is as far. Its bytes are checked by who begins from it."""
        for snapshot in self._own(resumed)[:1]:
            if snapshot.path.parent == self._paths.ram and not is_committed(self._store, snapshot.head):
                return SnapshotSeen(snapshot.name, snapshot.head.step, str(snapshot.path))
        return None

    def _drop_distrusted(self, request: Settle) -> list[PutAway]:
        """Delete the snapshots that the last attempts failed after; those on disk, which outlive a power cut, where the log has not; and
        where nothing is trusted, those with wrong bytes."""
        dropped = []
        failed_after = (parse_name(request.quarantine) or (0, 0))[0] if request.quarantine else math.inf
        wrong_from = request.beyond + 1 if request.beyond >= 0 else math.inf
        own = self._own(request.resumed)
        staged = any(snapshot.path.parent == self._paths.staging for snapshot in own)
        logged = newest_row(self._paths) if staged else NO_ROW  # the whole log is read for it
        for snapshot in own:
            reason = ""
            if snapshot.head.step >= min(failed_after, wrong_from):
                reason = request.reason
            elif snapshot.path.parent == self._paths.staging and logged < snapshot.head.logged:
                reason = "a power cut took rows of the log of steps that it needs"
            elif request.verify:
                reason = _what_is_wrong_with(snapshot)
            if reason:
                dropped.append(PutAway(snapshot.path.name, reason))
                remove_tree(snapshot.path)
        if dropped and self._paths.staging.is_dir():
            fsync_dir(self._paths.staging)  # or a power cut brings back what training failed after
        return dropped

    def _drop_strangers(self, request: Settle) -> list[PutAway]:
        """Give up the slots that nobody will read: incomplete, of another token or run, with wrong bytes, or all where all is on disk."""
        own = [] if request.commit else self._own(request.resumed)
        done = [snapshot.path for snapshot in self._own(request.resumed) if snapshot not in own]
        dropped = []
        for slot in slots_of(self._paths):
            if slot in {snapshot.path for snapshot in own}:
                continue
            if slot not in done:
                dropped.append(PutAway(slot.name, self._why_dropped(slot)))
            if request.commit or slot.parent != self._paths.ram or not empty(slot):
                remove_tree(slot)
        return dropped

    def _why_dropped(self, slot: Path) -> str:
        try:
            snapshot = read_snapshot(slot)
        except CheckpointError as error:
            return str(error)
        if snapshot is None:
            return "the snapshot was not complete"
        if snapshot.head.run != self._paths.identity:
            return "the snapshot is another run's"
        lease = read_lease(self._paths)
        if lease is None or snapshot.head.token != lease.token:
            return f"the snapshot's writer (token {snapshot.head.token}) no longer had the lease (token {lease.token if lease else 0})"
        return "the snapshot's bytes are not those that were written"

    def _put_beyond_away(self, request: Settle) -> tuple[PutAway, ...]:
        """Put the checkpoints away that training went wrong after, or in; newest first."""
        names = [kept.name for kept in reversed(self._store.listing()) if 0 <= request.beyond < kept.step]
        for name in names:
            self._store.quarantine(name, request.reason)
        return tuple(PutAway(name, request.reason) for name in names)

    def _find_good(self, request: Settle) -> tuple[PutAway, ...]:
        """Put bad checkpoints away, newest first, until one verifies. Raises SchemaError."""
        put_away = []
        for kept in reversed(self._store.listing()):
            reason = ""
            if kept.name == request.quarantine:
                reason = request.reason
            elif kept.verified and not request.verify:
                break
            else:
                reason = self._what_is_wrong(kept.name)
            if not reason:
                break
            self._store.quarantine(kept.name, reason)
            put_away.append(PutAway(kept.name, reason))
        return tuple(put_away)

    def _what_is_wrong(self, name: str) -> str:
        """Empty where every byte is right."""
        try:
            self._store.check(name)
        except CheckpointError as error:
            return str(error)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return f"the disk could not read it: {error.strerror} ({error.filename})"
        return ""


def _what_is_wrong_with(snapshot: Snapshot) -> str:
    """Empty where every byte of a snapshot is what its writer had."""
    try:
        for path in snapshot.files:
            found = read_head(path)
            if found is None:
                return f"{path} is no longer complete"
            check_sums(path, *found)
    except CheckpointError as error:
        return str(error)
    return ""


class MemoryHold:
    """Says that the run's memory is in use while this process lives, where no trainer does (`ram.hold`)."""

    def __init__(self, paths: RunPaths) -> None:
        self._paths = paths
        self._fd: int | None = None

    def renew(self) -> None:
        """A trainer makes the directory, and the end of a run deletes it."""
        with suppress(OSError, DiskError):  # tried again at the next request
            if self._fd is not None and not is_at(self._fd, self._paths.ram):
                os.close(self._fd)
                self._fd = None
            if self._fd is None:
                self._fd = hold(self._paths.ram)


def serve(keeper: Keeper, memory: MemoryHold, watchdog: FrozenWatchdog) -> int:
    """Answer requests until stdin ends; look after the watchdog in between."""
    decoder = msgspec.json.Decoder(Request)
    for line in lines_from(0, watchdog.look):
        memory.renew()
        sys.stdout.buffer.write(msgspec.json.encode(keeper.answer(decoder.decode(line))) + b"\n")
        sys.stdout.buffer.flush()
        keeper.afterwards()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="keeper", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="the run directory")
    parser.add_argument("--parent", type=int, required=True, help="end when this process does")
    parser.add_argument("--keep-last", type=int, required=True, help="newest checkpoints that are kept")
    parser.add_argument(
        "--milestone-every",
        type=int,
        required=True,
        help="the first at or behind each multiple of this step is kept; 0: none",
    )
    parser.add_argument("--keep-every-hours", type=float, default=0.0, help="one of so many hours is kept; 0: none")
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    paths = RunPaths(arguments.run)
    paths.checkpoints.mkdir(parents=True, exist_ok=True)
    memory = MemoryHold(paths)
    memory.renew()
    with suppress(OSError):  # of others, and perhaps just being removed by another keeper
        remove_stale(paths)
    store = Store(paths, arguments.keep_last, arguments.milestone_every, arguments.keep_every_hours)
    store.clean()
    return serve(Keeper(store), memory, FrozenWatchdog(paths, "keeper"))


if __name__ == "__main__":
    sys.exit(run_main("keeper", main))
