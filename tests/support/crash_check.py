"""Recovers from a disk as a crash may have left it, with the real code, and says what is wrong with the outcome."""

import hashlib
import random
import shutil
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from crash_disk import Disk, Sync, Tree
from crash_work import REASON, SIZE, Promise, Story, always_the_same, step_of
from small_slots import payload

from adam.contract.checkpoints import parse_name, rank_file, verify
from adam.contract.durable import LineAppender, last_line, log_lines
from adam.contract.errors import CheckpointError
from adam.contract.paths import RunPaths
from adam.watchdog.keeper import Keeper
from adam.watchdog.keeper_words import Answer, Settle
from adam.watchdog.store import Store


def crash_states(story: Story, most: int) -> Iterator[tuple[Promise, Tree]]:
    """The disks that crashes leave behind, about `most` for each moment.

    Only the moments before an fsync, before a new promise and at the end are of interest: what may be on the disk at any other
    may be there at the next of these too, since what came in between may be lost.
    """
    disk, promise = Disk(), None
    for number, item in enumerate([*story.log, None]):
        if promise is not None and number >= story.since and (item is None or isinstance(item, (Sync, Promise))):
            for tree in disk.crashes(most // story.one_in, random.Random(number)):
                yield promise, tree
        if isinstance(item, Promise):
            promise = item
        elif item is not None:
            disk.apply(item)


def check(group: list[Story], most: int, place: Path, *, first: bool = False) -> tuple[int, set[bytes], list[str]]:
    """Check all crashes of some stories: how many there were, the digests of the different disks, what is wrong.

    A disk that is found again is not checked again where the same was promised of it. `first`: one thing that is wrong is enough.
    """
    count, seen, digests, wrong = 0, set(), set(), []
    for story in group:
        for promise, tree in crash_states(story, most):
            count += 1
            digest = digest_of(tree)
            if (promise, digest, story.rows) in seen:
                continue
            seen.add((promise, digest, story.rows))
            digests.add(digest)
            wrong += problems(story, promise, tree, place / str(len(seen)))
            if wrong and first:
                return count, digests, wrong
    return count, digests, wrong


def problems(story: Story, promise: Promise, tree: Tree, root: Path) -> list[str]:
    """What is wrong after recovering from `tree`; it is laid out at `root` and removed again."""
    lay_out(tree, root)
    paths = RunPaths(root)
    try:
        before = list(before_anybody_mends(story, paths))
        with always_the_same():  # a slot on disk is of this run
            answer = recover(paths, story.keep_last)
        resumed = answer.newest.name if answer.newest else ""
        wrong = before + list(what_is_wrong(story, promise, paths, resumed))
        return [
            f"{story.name}: {problem}\n  promised {promise}\n  on disk {shape(tree)}\n  {answer}" for problem in wrong
        ]
    finally:
        shutil.rmtree(root)


def recover(paths: RunPaths, keep_last: int) -> Answer:
    """What comes up after a reboot: a keeper that settles, and a trainer that opens its log. The keeper's answer."""
    paths.run.mkdir(exist_ok=True)
    paths.staging.mkdir(parents=True, exist_ok=True)
    store = Store(paths, keep_last, 0)
    store.clean()
    answer = Keeper(store).answer(Settle(1, 0))
    assert not answer.trouble and not answer.refused, answer
    LineAppender(paths.steps).close()
    return answer


def before_anybody_mends(story: Story, paths: RunPaths) -> Iterator[str]:
    """The watchdog reads the log before a trainer has mended it."""
    lines = [line for _, line in log_lines(paths.steps)]
    last = last_line(paths.steps)
    if not story.rows.startswith(b"".join(line + b"\n" for line in lines)):
        yield "lines were read from the log that nobody wrote"
    if last is not None and last + b"\n" not in story.rows:
        yield "the last line of the log is none that was written"


def what_is_wrong(story: Story, promise: Promise, paths: RunPaths, resumed: str) -> Iterator[str]:
    if not resumed and promise.least:
        yield "there is nothing to resume from"
    if resumed:
        if resumed not in promise.may:
            yield f"resumed from {resumed}, which nobody made or which was put away"
        if step_of(resumed) < promise.least:
            yield f"resumed from {resumed}, older than the acknowledged step {promise.least}"
        data = (paths.checkpoints / resumed / rank_file(0)).read_bytes()
        if data[-SIZE:] != cached_payload(step_of(resumed)):
            yield f"{resumed} has not the payload of its step"
    rows = paths.steps.read_bytes()
    if not story.rows.startswith(rows):
        yield "the log of steps has bytes that nobody wrote"
    if resumed and len(rows) < story.ends[resumed]:
        yield f"{resumed} is ahead of the log of steps"
    yield from wrong_in_directories(promise, paths)


def wrong_in_directories(promise: Promise, paths: RunPaths) -> Iterator[str]:
    away = {path.name: path for path in paths.quarantine.iterdir()} if paths.quarantine.exists() else {}
    if torn := {name for name in away if name not in promise.away and name.split(".")[0] not in promise.may_away}:
        yield f"the crash made bad checkpoints: {sorted(torn)}"
    for name in promise.away:
        if name not in away or not (away[name] / REASON).exists() or not (away[name] / REASON).read_bytes():
            yield f"{name} is no longer in quarantine with its reason"
    for path in paths.checkpoints.iterdir():
        if parse_name(path.name) and path.name not in promise.may_away and (reason := fault_of(path)):
            yield f"the crash made a bad checkpoint: {reason}"
    if left := [path.name for path in paths.checkpoints.iterdir() if path.name.startswith((".tmp-", ".trash-"))]:
        yield f"left behind: {left}"


def fault_of(checkpoint: Path) -> str:
    try:
        verify(checkpoint)
    except CheckpointError as error:
        return str(error)
    return ""


def lay_out(tree: Tree, root: Path) -> None:
    root.mkdir()
    for path, data in tree.items():
        if data is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(data)


def digest_of(tree: Tree) -> bytes:
    names = "\n".join(tree).encode()
    return hashlib.sha1(names + b"".join(map(_digest, tree.values())), usedforsecurity=False).digest()[:10]


@lru_cache(maxsize=100_000)
def _digest(data: bytes | None) -> bytes:
    return bytes(20) if data is None else hashlib.sha1(data, usedforsecurity=False).digest()


@lru_cache
def cached_payload(step: int) -> bytes:
    return payload(step, SIZE)


def shape(tree: Tree) -> list[str]:
    return [path if data is None else f"{path} ({len(data)} bytes)" for path, data in tree.items()]
