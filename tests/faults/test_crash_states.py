"""No torn state, ever: whatever a crash of the machine leaves of a save, the run goes on from a whole checkpoint.

What a disk may hold then is said in `crash_disk`, what happened before in `crash_work`, what has to hold in `crash_check`.
"""

import multiprocessing
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from crash_check import check
from crash_disk import ROOT, Bytes, Disk, Made, Names, Op, Sync, Tree
from crash_record import Recorder, real_tree
from crash_work import Promise, Story, a_little_of_all, stories, told

PROCESSES = 2


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory, where there is one."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    made = Path(tempfile.mkdtemp(prefix="crash-", dir=shared))
    yield made
    shutil.rmtree(made)


def check_all(place: Path, seeds: range, most: int) -> tuple[int, int]:
    """Check the crashes of all stories: how many there were, and how many different disks. Fails with what is wrong."""
    context = multiprocessing.get_context("spawn")
    count, different = 0, set()
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        work = []
        for number, group in enumerate(stories(place, seeds)):
            own = place / f"states-{number}"
            own.mkdir()
            work.append(pool.submit(check, group, most, own))
        for done in work:
            states, digests, wrong = done.result()
            assert not wrong, "\n".join(wrong)
            count += states
            different |= digests
    return count, len(different)


@pytest.mark.timeout(600)
def test_whatever_a_crash_leaves_the_run_goes_on(place, capsys) -> None:
    count, different = check_all(place, range(27), 300)
    with capsys.disabled():
        print(f"\n{count:,} crashes, {different:,} different disks")
    assert different > 100_000


@pytest.mark.campaign
@pytest.mark.timeout(0)
def test_whatever_a_crash_leaves_of_many_runs(place, capsys) -> None:
    count, different = check_all(place, range(1000, 1000 + int(os.environ.get("ADAM_CRASH_SEEDS", "300"))), 1000)
    with capsys.disabled():
        print(f"\n{count:,} crashes, {different:,} different disks")


def sites_of(story: Story) -> set[str]:
    """From where in the product something is fsynced."""
    return {item.site for item in story.log if isinstance(item, Sync) and item.site != "the tests"}


def is_wrong(story: Story, log: list[Op | Promise], place: Path) -> bool:
    """True where a crash is found after which that log breaks a promise."""
    return bool(check([replace(story, log=tuple(log))], 60, place, first=True)[2])


@pytest.mark.timeout(300)
def test_every_fsync_is_missed(place) -> None:
    """As if the code lacked it: with any one of them gone, a crash is found that breaks a promise."""
    told_of = [told("a little of all", place / f"run-{keep}", keep, a_little_of_all) for keep in (1, 2)]
    sites = set.union(*map(sites_of, told_of))
    assert len(sites) >= 12
    for site in sorted(sites):
        without = ([item for item in s.log if not (isinstance(item, Sync) and item.site == site)] for s in told_of)
        assert any(is_wrong(s, log, place) for s, log in zip(told_of, without, strict=True)), f"not missed: {site}"


def test_a_rename_before_the_manifest_is_found(place) -> None:
    """The same writes and fsyncs, but the checkpoint has its name before its manifest is there."""
    story = told("a little of all", place / "run", 2, a_little_of_all)
    log = list(story.log)
    manifest = next(i for i, item in enumerate(log) if isinstance(item, Names) and "MANIFEST.json" in item.names)
    rename = next(
        i for i, item in enumerate(log) if isinstance(item, Names) and any(n[:5] == "step-" for n in item.names)
    )
    assert manifest < rename
    log.insert(manifest, log.pop(rename))
    assert is_wrong(story, log, place)


def test_a_write_behind_the_recorders_back_is_noticed(place) -> None:
    (place / "run").mkdir()
    with Recorder(place / "run", ()) as recorder:
        (place / "run" / "a").mkdir()
        assert recorder.disk.now() == real_tree(recorder)
        (place / "run" / "b").write_bytes(b"not by os.write")
    assert recorder.disk.now() != real_tree(recorder)


def crashes(*ops: Op) -> list[Tree]:
    disk = Disk()
    for op in ops:
        disk.apply(op)
    return sorted(disk.crashes(1000, random.Random(1)), key=repr)


def test_the_model_loses_what_is_not_fsynced() -> None:
    made = (Made(1, False), Names(ROOT, {"a": 1}))
    assert crashes(*made, Bytes(1, 0, b"xyz")) == [
        {"a": b""},
        {"a": b"\0\0\0"},
        {"a": b"x"},
        {"a": b"xyz"},
        {},
        {},
        {},
        {},
    ]
    assert crashes(*made, Bytes(1, 0, b"xyz"), Sync(1, "")) == [{"a": b"xyz"}, {}]  # a name of its own
    assert {} not in crashes(*made, Bytes(1, 0, b"xyz"), Sync(ROOT, ""))


def test_the_model_renames_whole_and_reorders() -> None:
    made = (Made(1, False), Names(ROOT, {"a": 1}), Sync(ROOT, ""))
    assert crashes(*made, Names(ROOT, {"a": None, "b": 1})) == [{"a": b""}, {"b": b""}]
    later = (Made(2, False), Names(ROOT, {"c": 2}))
    assert {"a": b"", "c": b""} in crashes(*made, Names(ROOT, {"a": None, "b": 1}), *later)


def test_the_model_keeps_sectors_in_any_order() -> None:
    data = b"1" * 512 + b"2" * 512 + b"3"
    found = [tree["a"] for tree in crashes(Made(1, False), Names(ROOT, {"a": 1}), Sync(ROOT, ""), Bytes(1, 0, data))]
    assert bytes(512) + b"2" * 512 + b"\0" in found
    assert b"1" * 512 in found and b"1" * 512 + b"2" * 170 in found
