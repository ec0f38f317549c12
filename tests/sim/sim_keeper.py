"""Keeper, disk and shared memory as models: what is kept where, how long it takes, and what the disk refuses."""

import math
from collections.abc import Collection
from dataclasses import dataclass

from sim_box import Box
from sim_numeric import Spoil
from sim_trainer import Snapshot

from adam.contract.checkpoints import parse_name
from adam.contract.records import SnapshotSeen
from adam.contract.retention import Rules
from adam.watchdog.keeper_client import LOOK_AFTER_S, STOPPED_S
from adam.watchdog.policy_words import AskCommit, AskSettle, Settled
from adam.watchdog.retention import Kept, superfluous

RULES = Rules(keep_last=3)
LONGEST_S = 1800.0  # for one request; see KeeperClient
NO_ROOM = "no room for the checkpoint"


@dataclass
class Stored:
    """A checkpoint on disk; `good` is what only reading it shows."""

    step: int
    attempt: int
    name: str
    made: float
    saves: int
    spoil: Spoil | None
    good: bool = True


class Disk:
    """The run's disk and its shared memory: they outlive processes; memory does not outlive the machine."""

    def __init__(self) -> None:
        self.stored: list[Stored] = []
        self.memory: list[Snapshot] = []
        self.held: Collection[str] = ()  # checkpoints that somebody is reading
        self.quarantined = 0
        self.full_until = self.slow_until = self.crawls_until = 0.0
        self.full_step = 0  # that training had come to when it became full

    def find(self, name: str) -> Stored | None:
        return next((item for item in self.stored if item.name == name), None)


class Look:
    """What a keeper is asked where nobody needs it: see KeeperClient."""


class Keeper:
    """The keeper, and the watchdog's memory of its answers: both are lost when the watchdog dies."""

    def __init__(self, disk: Disk, box: Box, token: int, saves: int, now: float) -> None:
        """`token` is the lease's, `saves` what the watchdog remembered."""
        self.disk, self.box, self.token, self.saves = disk, box, token, saves
        self.verified: set[str] = set()
        self._fresh: set[str] = set()  # of these, what the watchdog was not told of
        self.told: set[str] = set()  # what the watchdog was told is right, by this keeper or one before
        self.request: AskSettle | AskCommit | Look | None = None
        self.done_at = self.up_at = self.kill_at = math.inf
        self.look_at = now + LOOK_AFTER_S
        self.free_at = now  # what it does behind an answer is done then
        self.alive = True
        self.stopped = False  # by SIGSTOP
        self.heard = False  # it has answered anything yet
        self.settled: Settled | None = None
        self.trouble = ""
        self.listed: tuple[Kept, ...] = ()
        self.newest = ""  # the newest verified one, as the watchdog was told
        self.commit_seconds = 0.0
        self.chosen: Snapshot | None = None  # what the present request commits

    @property
    def idle(self) -> bool:
        return self.alive and self.request is None

    def next_at(self) -> float:
        return min(self.done_at, self.up_at, self.kill_at, self.look_at)

    def sleep(self, seconds: float) -> None:
        """Its clients reckon with time that goes on in sleep: `kill_at` and `look_at` stay."""
        self.done_at, self.up_at, self.free_at = self.done_at + seconds, self.up_at + seconds, self.free_at + seconds

    def die(self, now: float) -> None:
        if isinstance(self.request, AskCommit):
            self.trouble = "the keeper died while it committed a checkpoint"
        self.verified.clear()
        self._fresh.clear()
        self.request, self.alive, self.stopped = None, False, False
        self.done_at, self.kill_at, self.up_at = math.inf, math.inf, now + self.box.keeper_s
        self.look_at = math.inf if self.heard else self.up_at

    def stop(self) -> None:
        """SIGSTOP: it answers nothing until it is killed."""
        self.stopped, self.done_at = True, math.inf
        if self.request is not None:
            self.kill_at = min(self.kill_at, self._asked_at + STOPPED_S)

    def own(self, resumed: str) -> list[Snapshot]:
        """Newest first; see keeper.Keeper._own."""
        found = [item for item in self.disk.memory if item.token == self.token or item.name == resumed]
        return sorted(found, key=lambda item: (item.step, item.attempt), reverse=True)

    def ask(self, request: AskSettle | AskCommit | Look, now: float) -> None:
        assert self.request is None, "two requests at a time"
        assert self.alive, "a dead keeper is asked"
        self.request, self._asked_at, self.look_at = request, now, math.inf
        self.kill_at = now + (STOPPED_S if self.stopped else LONGEST_S)
        self.chosen = None
        if isinstance(request, AskSettle):
            self._drop_distrusted(request)
        cost = self.box.answer_s
        if not isinstance(request, Look):
            self.chosen = self._to_commit(request)
            cost += self.box.commit_s * (self.chosen is not None and now >= self.disk.full_until)
        if self._reads(request):
            cost += self.box.verify_s * (self.box.crawl if now < self.disk.crawls_until else 1.0)
        begun = max(now, self.free_at)
        self.done_at = math.inf if self.stopped else max(begun + cost, self.disk.slow_until)

    def _reads(self, request: AskSettle | AskCommit | Look) -> bool:
        """Is a checkpoint on disk read before the answer?"""
        unread = [item for item in self.disk.stored if item.name not in self.verified]
        if isinstance(request, AskSettle):
            later = self._left(request.resumed) and not request.commit and not (request.verify or request.quarantine)
            return not later and bool(request.verify or unread)
        return isinstance(request, Look) and bool(unread)

    def move(self, now: float, wall: float) -> None:
        if now >= self.up_at:
            self.alive, self.up_at, self.free_at = True, math.inf, now
        if now >= self.look_at:
            self.look_at = math.inf
            if self.idle:
                self.ask(Look(), now)
        if now >= self.done_at and self.request is not None:
            self._answer(now, wall)
        if now >= self.kill_at:
            self._overdue(now)

    def _answer(self, now: float, wall: float) -> None:
        request, self.request, self.done_at, self.kill_at = self.request, None, math.inf, math.inf
        self.heard = True
        if isinstance(request, AskSettle):
            self._settle(request, now, wall)
        elif isinstance(request, AskCommit):
            self.trouble = self._commit(request, now, wall)
        else:
            self._confirm()
        self.told |= self._fresh
        self._fresh.clear()
        self.listed = self._listing()
        self.newest = next((item.name for item in reversed(self.disk.stored) if item.name in self.verified), "")
        if not self.verified and self.disk.stored:  # behind the answer; see keeper.Keeper.afterwards
            self._confirm()
            self.free_at = now + self.box.verify_s

    def _confirm(self) -> None:
        """One checkpoint is known to be right: the newest that is."""
        if not self.verified:
            self._found_right([item.name for item in self.disk.stored if item.good][-1:])

    def _found_right(self, names: Collection[str]) -> None:
        self.verified.update(names)
        self._fresh.update(names)

    def _overdue(self, now: float) -> None:
        """The watchdog kills it; in a call that does not come back it dies when that does."""
        if now < self.disk.slow_until and not self.stopped:
            self.done_at, self.kill_at = math.inf, self.disk.slow_until
        else:
            self.die(now)

    def _to_commit(self, request: AskSettle | AskCommit) -> Snapshot | None:
        """The snapshot that a request would commit, if it is not on disk yet."""
        if isinstance(request, AskSettle) and not request.commit and self._left(request.resumed):
            return None
        durable_only = isinstance(request, AskCommit) and request.durable_only
        for snapshot in self.own(request.resumed):
            if snapshot.durable or not durable_only:
                return None if self._there(snapshot) else snapshot
        return None

    def _there(self, snapshot: Snapshot) -> bool:
        """See commit.is_committed."""
        for item in reversed(self.disk.stored):
            later = item.attempt == snapshot.attempt and item.step >= snapshot.step
            if later and (item.name in self.verified or item.good):
                return True
        return False

    def _left(self, resumed: str) -> Snapshot | None:
        newest = next(iter(self.own(resumed)), None)
        return newest if newest is not None and not self._there(newest) else None

    def _commit(self, request: AskSettle | AskCommit, now: float, wall: float) -> str:
        """Empty, or the trouble."""
        done = [item.saves for item in self.own(request.resumed) if self._there(item)]
        self.saves = max([self.saves, *done])
        snapshot = self.chosen
        if snapshot is None:
            return ""
        if now < self.disk.full_until:
            return NO_ROOM
        made = Stored(snapshot.step, snapshot.attempt, snapshot.name, wall, snapshot.saves, snapshot.spoil)
        self.disk.stored = [item for item in self.disk.stored if item.name != made.name] + [made]
        self.disk.stored.sort(key=lambda item: (item.step, item.attempt))
        self._found_right([snapshot.name])
        self.saves = max(self.saves, snapshot.saves)
        self.commit_seconds = self.box.commit_s
        gone = set(superfluous(self._listing(), RULES, {})) - set(self.disk.held)
        self.disk.stored = [item for item in self.disk.stored if item.name not in gone]
        return ""

    def _settle(self, request: AskSettle, now: float, wall: float) -> None:
        disk = self.disk
        if request.beyond >= 0:
            self._put_away([item for item in disk.stored if item.step > request.beyond])
        left = None if request.commit else self._left(request.resumed)
        trouble = "" if left is not None else self._commit(request, now, wall)
        if not trouble:
            own = self.own(request.resumed)
            disk.memory = [] if request.commit else [item for item in own if item is left]
        self.trouble = ""
        if left is None or request.verify or request.quarantine:
            self._find_good(request)
        self.settled = Settled(
            id=request.id,
            checkpoints=self._listing(),
            in_quarantine=disk.quarantined,
            trouble=trouble,
            snapshot=SnapshotSeen(left.name, left.step, f"/dev/shm/{left.name}") if left else None,
        )

    def _drop_distrusted(self, request: AskSettle) -> None:
        failed_after = (parse_name(request.quarantine) or (0, 0))[0] if request.quarantine else math.inf
        wrong_from = min(failed_after, request.beyond + 1 if request.beyond >= 0 else math.inf)
        own = self.own(request.resumed)
        self.disk.memory = [item for item in self.disk.memory if item not in own or item.step < wrong_from]

    def _find_good(self, request: AskSettle) -> None:
        for item in reversed(list(self.disk.stored)):
            trusted = item.name in self.verified and not request.verify
            if item.name != request.quarantine and (trusted or item.good):
                self._found_right([item.name])
                return
            self._put_away([item])

    def _put_away(self, items: list[Stored]) -> None:
        for item in items:
            self.disk.stored.remove(item)
            self.verified.discard(item.name)
            self._fresh.discard(item.name)
            self.told.discard(item.name)
            self.disk.quarantined += 1

    def _listing(self) -> tuple[Kept, ...]:
        return tuple(
            Kept(item.name, item.step, item.attempt, item.name in self.verified, item.made) for item in self.disk.stored
        )
