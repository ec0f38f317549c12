"""The keeper: the only one that commits, verifies, quarantines and deletes checkpoints. A process of its own, without policy.

    python -P -m adam.watchdog.keeper --run DIR --parent PID --keep-last N --milestone-every N

Reads a request a line from stdin and writes an answer a line to stdout (`keeper_words`); ends when stdin does.
"""

import argparse
import errno
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from adam.contract.errors import CheckpointError, DiskError, SchemaError, run_main
from adam.contract.lease import lease_is_held, read_lease
from adam.contract.paths import RunPaths
from adam.contract.process import die_with_parent
from adam.contract.slots import SlotHead, read_head
from adam.watchdog.commit import SLOTS, commit, complete_slots, is_committed
from adam.watchdog.keeper_words import Answer, Commit, Committed, Prune, PutAway, Request, Settle
from adam.watchdog.store import Store

DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}


class Keeper:
    """Carries out requests on the checkpoints of one run, one at a time."""

    def __init__(self, store: Store) -> None:
        self._store, self._paths = store, store.paths
        self._bad: set[tuple[int, int]] = set()  # (attempt, sequence) of snapshots whose bytes are wrong
        self._saves = 0

    def answer(self, request: Request) -> Answer:
        """Carry out a request. A disk that fails is trouble to be told, and no reason to end."""
        try:
            return self._carried_out(request)
        except OSError as error:
            trouble = disk_trouble(error, "the checkpoints could not be put in order", self._paths.checkpoints)
        if isinstance(request, Settle):
            return self._finish(Answer("settle", request.id, request.token), trouble=trouble)
        return self._finish(Answer("prune" if isinstance(request, Prune) else "commit"), trouble=trouble)

    def _carried_out(self, request: Request) -> Answer:
        match request:
            case Commit():
                return self._finish(self._committed(), request="commit")
            case Settle():
                return self._settle(request)
            case Prune():
                self._store.prune()
                return self._finish(Answer("prune"))

    def _finish(self, answer: Answer, **facts: object) -> Answer:
        """The answer, with what is on disk now."""
        return msgspec.structs.replace(
            answer,
            saves=self._saves,
            pruned=self._store.take_pruned(),
            checkpoints=tuple(self._store.listing()),
            newest=self._store.newest_verified(),
            in_quarantine=self._store.in_quarantine(),
            **facts,
        )

    def _own_slots(self) -> Iterator[tuple[Path, SlotHead]]:
        """Complete slots of the last holder of the lease, newest first."""
        lease = read_lease(self._paths)
        for slot, head in complete_slots(self._paths.staging):
            if lease is not None and head.token == lease.token and head.run == self._paths.identity:
                yield slot, head

    def _committed(self) -> Answer:
        """Commit the newest snapshot that is not on disk yet, if there is one, and prune behind it."""
        dropped: list[PutAway] = []
        committed: Committed | None = None
        trouble = ""
        try:
            committed = self._commit_newest(dropped)
            self._store.prune()
        except DiskError as error:
            trouble = str(error)
        except OSError as error:
            trouble = disk_trouble(error, "the checkpoint could not be written", self._paths.checkpoints)
        return Answer("", committed=committed, dropped=tuple(dropped), trouble=trouble)

    def _commit_newest(self, dropped: list[PutAway]) -> Committed | None:
        for slot, head in self._own_slots():
            if (head.attempt, head.sequence) in self._bad:
                continue
            if is_committed(self._store, head):
                self._saves = max(self._saves, head.saves)
                return None
            try:
                committed = commit(self._store, slot, head)
            except CheckpointError as error:
                self._bad.add((head.attempt, head.sequence))
                dropped.append(PutAway(slot.name, str(error)))
                continue
            if committed is not None:
                self._saves = max(self._saves, head.saves)
                return committed
        return None

    def _settle(self, request: Settle) -> Answer:
        answer = Answer("settle")
        if lease_is_held(self._paths):
            answer = Answer("settle", trouble="the lease is held: a program still runs")
        else:
            self._store.clean()
            answer = self._committed()
            dropped = answer.dropped + (() if answer.trouble else self._drop_strangers())
            try:
                quarantined = self._find_good(request)
                answer = msgspec.structs.replace(answer, dropped=dropped, quarantined=quarantined)
            except SchemaError as error:
                answer = msgspec.structs.replace(answer, dropped=dropped, refused=str(error))
        return self._finish(answer, request="settle", id=request.id, token=request.token)

    def _drop_strangers(self) -> tuple[PutAway, ...]:
        """Delete the slots that must never be committed: incomplete, of another token or another run, or with wrong bytes."""
        own = {slot for slot, head in self._own_slots() if (head.attempt, head.sequence) not in self._bad}
        dropped = []
        for slot in self._paths.staging.glob(SLOTS):
            if slot not in own:
                dropped.append(PutAway(slot.name, self._why_dropped(slot)))
                slot.unlink()
        return tuple(dropped)

    def _why_dropped(self, slot: Path) -> str:
        try:
            head = read_head(slot)
        except CheckpointError as error:
            return str(error)
        if head is None:
            return "the snapshot was not complete"
        if head[0].run != self._paths.identity:
            return "the snapshot is another run's"
        lease = read_lease(self._paths)
        if lease is None or head[0].token != lease.token:
            return f"the snapshot's writer (token {head[0].token}) no longer had the lease (token {lease.token if lease else 0})"
        return "the snapshot's bytes are not those that were written"

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


def disk_trouble(error: OSError, what: str, where: Path) -> str:
    """What to tell of a disk that is full or failing. Anything else is a fault of the code: raised again."""
    if error.errno not in DISK_TROUBLE:
        raise error
    return f"{what}: {error.strerror} ({error.filename or where})"


def serve(keeper: Keeper) -> int:
    """Answer requests until stdin ends."""
    decoder = msgspec.json.Decoder(Request)
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(msgspec.json.encode(keeper.answer(decoder.decode(line))) + b"\n")
        sys.stdout.buffer.flush()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="keeper", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="the run directory")
    parser.add_argument("--parent", type=int, required=True, help="end when this process does")
    parser.add_argument("--keep-last", type=int, required=True, help="newest checkpoints that are kept")
    parser.add_argument("--milestone-every", type=int, required=True, help="multiples of this step are kept; 0: none")
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    paths = RunPaths(arguments.run)
    paths.staging.mkdir(parents=True, exist_ok=True)
    store = Store(paths, arguments.keep_last, arguments.milestone_every)
    store.clean()
    return serve(Keeper(store))


if __name__ == "__main__":
    sys.exit(run_main("keeper", main))
