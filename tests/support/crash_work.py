"""What the crashes go through: saves, pruning, a bad checkpoint, one put away on request, deaths of trainer and keeper.

Everything is done by the real keeper and the trainer's own log; `Promise` is what the world was told meanwhile.
"""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unittest.mock import patch

import small_slots
from crash_disk import Op
from crash_record import Killed, Recorder, real_tree

from adam.contract.checkpoints import checkpoint_name, rank_file
from adam.contract.clock import Stamp
from adam.contract.durable import LineAppender
from adam.contract.lease import take_lease
from adam.contract.paths import RunPaths
from adam.contract.steplog import RowKey
from adam.watchdog.keeper import Keeper
from adam.watchdog.keeper_words import Answer, Commit, Request, Settle
from adam.watchdog.store import Store

SIZE = 3000  # bytes of a snapshot's tensor
REASON = "REASON.txt"
CALLS_OF_A_SAVE = 27  # that the keeper makes, pruning included, and one more


@dataclass(frozen=True)
class Promise:
    """What has to hold after a crash from here on."""

    least: int = 0  # a step that was acknowledged; 0: none was
    may: frozenset[str] = frozenset()  # what may be resumed from
    away: frozenset[str] = frozenset()  # what is in quarantine, with its reason
    may_away: frozenset[str] = frozenset()  # what may be put there as well


@dataclass(frozen=True)
class Story:
    """What happened to a disk: operations, and Promises between them."""

    name: str
    keep_last: int
    log: tuple[Op | Promise, ...]
    rows: bytes  # all of steps.jsonl
    ends: dict[str, int]  # where the rows end that a checkpoint needs
    since: int = 0  # from where on in the log crashes are of interest
    one_in: int = 1  # so many of the crashes that are asked for


def write_slot(paths: RunPaths, step: int, attempt: int, size: int = SIZE, **head: RowKey) -> Path:
    """A snapshot as the trainer leaves it; the token is the attempt. Its directory."""
    number = step // 10 % 2
    return small_slots.write_slot(paths, step, number, token=attempt, attempt=attempt, size=size, saves=step, **head)


def apart(paths: RunPaths) -> tuple[Path, ...]:
    """What does not outlive a reboot, or means nothing after it, where slots lie in memory (for which the staging directory stands here)."""
    return paths.staging, paths.lease


class Work:
    """A run from its first start on. Tells `recorder` what was promised, where there is one. `staged`: the slots outlive a reboot."""

    def __init__(
        self, root: Path, keep_last: int, recorder: Recorder | None = None, seed: int = 0, *, staged: bool = False
    ) -> None:
        self.staged = staged
        self.paths, self.keep_last, self.recorder = RunPaths(root), keep_last, recorder
        self.promise, self.answer = Promise(), Answer("")
        self.chance = random.Random(seed)
        self.ends: dict[str, int] = {}
        self.rows = b""
        self.attempt = self.since = 0
        self.paths.run.mkdir()
        self.steps = LineAppender(self.paths.steps)
        self.start_keeper()
        self.start_attempt()

    def start_keeper(self) -> None:
        self.paths.staging.mkdir(parents=True, exist_ok=True)
        store = Store(self.paths, self.keep_last, 0)
        store.clean()
        self.keeper = Keeper(store)

    def start_attempt(self) -> None:
        self.attempt += 1
        fd, _ = take_lease(self.paths, "trainer", self.attempt, self.attempt)
        os.close(fd)
        if self.staged and self.chance.random() < 0.7:
            self.written_back(self.paths.lease, self.paths.run)

    def written_back(self, *places: Path) -> None:
        assert self.recorder is not None
        for place in places:
            self.recorder.write_back(place)

    def train(self, step: int) -> str:
        """Log the steps up to `step` and leave a snapshot of it."""
        name = checkpoint_name(step, self.attempt)
        if self.staged:  # from now on a settling may find it
            self.tell(replace(self.promise, may=self.promise.may | {name}))
        for number in range(step - 4, step + 1):
            row = b'{"attempt":%d,"step":%d,"loss":"%s"}' % (self.attempt, number, b"x" * self.chance.randrange(400))
            self.steps.append(row)
            self.rows += row + b"\n"
        self.ends[name] = len(self.rows)
        slot = write_slot(self.paths, step, self.attempt, logged=RowKey(self.attempt, step))
        if self.staged and self.recorder is not None:
            self.recorder.mapped(slot / rank_file(0))
            if self.chance.random() < 0.7:
                self.written_back(slot / rank_file(0), slot, self.paths.staging)
        return name

    def ask(self, request: Request, *, making: str = "", losing: str = "") -> Answer:
        """Let the keeper answer. `making`: the checkpoint that it may make, `losing`: that it may put away."""
        old = self.promise
        self.tell(
            Promise(
                least=max((step_of(name) for name in old.may - {losing}), default=0) if losing else old.least,
                may=old.may | ({making} if making else set()),
                away=old.away,
                may_away=old.may_away | ({losing} if losing else set()),
            )
        )
        self.answer = self.keeper.answer(request)
        away = set(os.listdir(self.paths.quarantine)) if self.paths.quarantine.exists() else set()
        newest = self.answer.newest
        self.tell(
            Promise(
                least=newest.step if newest else 0,
                may=frozenset(kept.name for kept in self.answer.checkpoints),
                away=frozenset(away),
                may_away=frozenset(name.split(".")[0] for name in away),
            )
        )
        return self.answer

    def tell(self, promise: Promise) -> None:
        self.promise = promise
        if self.recorder is not None:
            self.recorder.tell(promise)

    def save(self, step: int) -> None:
        name = self.train(step)
        assert self.ask(Commit(), making=name).committed

    def save_and_die(self, step: int) -> None:
        """The trainer dies behind its snapshot; it is settled, and another attempt begins."""
        name = self.train(step)
        assert self.ask(Settle(1, self.attempt), making=name).committed
        self.start_attempt()

    def put_away(self) -> None:
        """The newest checkpoint is good, but training went wrong behind it."""
        name = self.answer.checkpoints[-1].name
        answer = self.ask(Settle(1, self.attempt, quarantine=name, reason="it makes no sense"), losing=name)
        assert [item.name for item in answer.quarantined] == [name]
        self.start_attempt()
        self.ask(Settle(1, self.attempt))  # its snapshot is a stranger's now

    def rot(self) -> None:
        """A bit of the newest checkpoint flips on the disk, after the snapshot is gone from memory."""
        name = self.answer.checkpoints[-1].name
        self.start_attempt()
        self.ask(Settle(1, self.attempt))
        old = self.promise
        kept = max((step_of(other) for other in old.may - {name}), default=0)
        self.tell(Promise(kept, old.may, old.away, old.may_away | {name}))
        flip(self.paths.checkpoints / name / rank_file(0))
        assert self.ask(Settle(1, self.attempt, verify=True), losing=name).quarantined

    def save_and_lose_keeper(self, step: int, calls: int) -> bool:
        """The keeper is killed at its call number `calls` of a save, and the next one goes on. False: it was through before."""
        assert self.recorder is not None
        name = self.train(step)
        self.recorder.calls_left = calls
        killed = True
        with suppress(Killed):
            self.ask(Commit(), making=name)
            killed = False
        self.recorder.calls_left = -1
        self.start_keeper()
        self.ask(Settle(1, self.attempt))
        return killed


def flip(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    os.lseek(fd, -9, os.SEEK_END)
    bad = bytes([os.read(fd, 1)[0] ^ 1])
    os.lseek(fd, -9, os.SEEK_END)
    os.write(fd, bad)
    os.fsync(fd)
    os.close(fd)


def step_of(name: str) -> int:
    return int(name.split("-")[1])


@contextmanager
def always_the_same() -> Iterator[None]:
    """Neither the time nor the place of a run gets into its files, so that equal states are counted once."""
    then = Stamp(wall=1.8e9, boot_id="b", boottime=1.0)
    with patch("adam.watchdog.commit.stamp", lambda: then), patch.object(RunPaths, "identity", "r"):
        yield


def told(
    name: str, root: Path, keep_last: int, tell: Callable[[Work], None], seed: int = 0, *, staged: bool = False
) -> Story:
    """The story of a new run at `root`. Fails where the record of it is not, byte for byte, what is on the disk."""
    root.mkdir()
    with always_the_same(), Recorder(root, () if staged else apart(RunPaths(root))) as recorder:
        work = Work(root, keep_last, recorder, seed, staged=staged)
        try:
            tell(work)
        finally:
            work.steps.close()
    assert recorder.disk.now() == real_tree(recorder), "something was written behind the recorder's back"
    return Story(
        f"{name}, keep_last {keep_last}",
        keep_last,
        tuple(recorder.log),
        work.rows,
        work.ends,
        work.since,
        50 if staged else 1,
    )


def everything(work: Work) -> None:
    """All that can happen, one after the other."""
    for step in (10, 20, 30):
        work.save(step)
    work.save_and_die(40)
    work.rot()
    work.save(50)
    work.put_away()
    for step in (60, 70):
        work.save(step)
    work.save_and_die(80)


def a_little_of_all(work: Work) -> None:
    """Every fsync in a short story."""
    work.save(10)
    work.save(20)
    work.put_away()
    work.save(30)
    work.save_and_die(40)


def anything(work: Work) -> None:
    """Some of it, in any order."""
    for step in range(10, 100, 10):
        match work.chance.randrange(6):
            case 0 if work.promise.may:
                work.rot()
            case 1 if work.promise.may:
                work.put_away()
            case 2:
                work.save_and_die(step)
            case 3:
                work.save_and_lose_keeper(step, work.chance.randrange(CALLS_OF_A_SAVE))
            case _:
                work.save(step)


def a_keeper_killed(work: Work, calls: int) -> None:
    """The keeper is killed at its call number `calls` of a save."""
    for step in (10, 20):
        work.save(step)
    assert work.recorder is not None
    work.since = len(work.recorder.log)  # the crashes before are everything's
    assert work.save_and_lose_keeper(30, calls) == (calls < CALLS_OF_A_SAVE - 1), "a save has other calls than it had"
    work.save(40)


def stories(place: Path, seeds: range) -> Iterator[list[Story]]:
    """All that crashes are tried on. Those in a list have disks in common."""
    for keep_last in (1, 2):
        group = [told("everything", place / f"everything-{keep_last}", keep_last, everything)]
        for calls in range(CALLS_OF_A_SAVE):
            name = f"keeper killed at call {calls}"
            group.append(told(name, place / f"{name}-{keep_last}", keep_last, partial(a_keeper_killed, calls=calls)))
        yield group
    for seed in seeds:
        yield [told(f"seed {seed}", place / f"seed {seed}", 1 + seed % 2, anything, seed)]
    for seed in seeds[1::14]:  # slots of which the kernel has written back what it liked
        root = place / f"staged, seed {seed}"
        yield [told(root.name, root, 1 + seed % 2, anything if seed % 4 == 3 else a_little_of_all, seed, staged=True)]
