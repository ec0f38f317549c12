"""Several ranks take one snapshot: at one place, in one slot, and whole or not at all."""

import fcntl
from pathlib import Path

import pytest
from rank_group import go_on_from, lease, step_of, trained, wait_until

from adam.contract import schema
from adam.contract.checkpoints import rank_file
from adam.contract.records import Staging
from adam.contract.slots import read_head
from adam.contract.snapshots import Snapshot, complete_snapshots, read_snapshot
from adam.watchdog.commit import reading
from adam.watchdog.keeper_words import Settle

pytestmark = pytest.mark.timeout(300)  # processes on two cores import torch for half a minute


def test_a_flipped_bit_that_one_rank_finds_stops_all(pair, groups, paths) -> None:
    pair.do("stage", run=str(paths.root), attempt=1, use_ram=True)
    assert pair.same("take")
    pair.do("unstage")
    (snapshot,) = complete_snapshots(paths)
    found = read_head(snapshot.files[1])
    assert found is not None
    with snapshot.files[1].open("r+b") as file:
        file.seek(found[1]["exp_avg.backbone.embedding.weight"].end - 1)
        file.write(b"\x01")
    where = {"directory": str(snapshot.path), "committed": False}
    refused = f"{snapshot.files[1]}: the bytes of exp_avg.backbone.embedding.weight are not those that were written"
    assert pair.same("refused", **where) == refused
    groups.of(4).do("make", arch="mamba2", seed=1)
    assert groups.of(4).same("refused", **where) == refused


def test_a_rank_killed_while_it_writes_leaves_the_snapshot_before(groups, paths, keeper) -> None:
    lease(paths, 1)
    doomed = groups.fresh(2)
    doomed.do("make", arch="mamba2", seed=1)
    doomed.do("stage", run=str(paths.root), attempt=1, use_ram=True)
    doomed.do("train", updates=1)
    assert doomed.same("take")
    saved = trained(doomed)
    doomed.do("train", updates=1)
    doomed.tell(1, "stand_still_while_writing")
    doomed.answer(1)
    for rank in range(2):
        doomed.tell(rank, "take")
    assert doomed.answer(1) == "standing still"
    wait_until(lambda: any(step_of(file) == 2 for file in paths.ram.rglob(rank_file(0))))
    doomed.processes[1].kill()
    assert doomed.processes[0].wait(30) != 0  # it does not wait for ever
    doomed.end()

    answer = keeper.answer(Settle(1, 1, commit=False))
    assert {item.reason for item in answer.dropped} == {"the snapshot was not complete"}
    assert answer.snapshot is not None and answer.snapshot.step == 1
    assert go_on_from(groups.of(2), "mamba2", Path(answer.snapshot.slot), committed=False) == saved
    answer = keeper.answer(Settle(2, 1, commit=True))
    assert answer.committed is not None and answer.committed.step == 1


@pytest.mark.parametrize(
    ("rank", "what", "in_ram"),
    [(0, "no_room", False), (1, "no_room", False), (0, "see_little_memory", False), (1, "see_little_memory", True)],
)
def test_all_ranks_have_their_slots_at_the_same_place(pair, paths, rank: int, what: str, in_ram: bool) -> None:
    pair.tell(rank, what, **({"where": str(paths.ram)} if what == "no_room" else {}))
    pair.answer(rank)
    assert pair.same("stage", run=str(paths.root), attempt=1, use_ram=True) == {"in_ram": in_ram, "trouble": ""}
    assert pair.same("take")
    (snapshot,) = complete_snapshots(paths)
    assert snapshot.path.parent == (paths.ram if in_ram else paths.staging)
    report = schema.load(paths.staging_report, Staging)
    assert report is not None and report.tier == ("ram" if in_ram else "disk")
    if what == "no_room":
        assert report.why.startswith("rank 1: no room" if rank else "no room")
    if not in_ram:
        assert not list(paths.ram.rglob("*.safetensors"))


def test_where_one_rank_has_no_room_anywhere_none_takes_snapshots(pair, paths) -> None:
    pair.tell(1, "no_room", where="/")
    pair.answer(1)
    staged = pair.same("stage", run=str(paths.root), attempt=1, use_ram=True)
    assert staged["trouble"].startswith("rank 1: no room")
    assert not pair.same("take")
    report = schema.load(paths.staging_report, Staging)
    assert report is not None and (report.tier, report.slots) == ("none", 0)


def three_snapshots(pair, paths) -> Snapshot:
    """Every slot has one, and training is an update further; the oldest of them."""
    pair.do("stage", run=str(paths.root), attempt=1, use_ram=True)
    for _ in range(3):
        pair.do("train", updates=1)
        assert pair.same("take")
    oldest = complete_snapshots(paths)[-1]
    pair.do("train", updates=1)
    return oldest


def test_ranks_leave_the_slot_alone_that_the_keeper_copies(pair, paths) -> None:
    oldest = three_snapshots(pair, paths)
    with reading(oldest) as files:
        assert files
        assert pair.same("take")
    assert {snapshot.head.step for snapshot in complete_snapshots(paths)} == {1, 3, 4}


def test_a_rank_waits_for_a_keeper_that_is_about_to_let_go(pair, paths) -> None:
    oldest = three_snapshots(pair, paths)
    with oldest.files[1].open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        for rank in range(2):
            pair.tell(rank, "take")
        wait_until(lambda: step_of(oldest.files[0]) == 4)
        assert step_of(oldest.files[1]) == 1 and read_snapshot(oldest.path) is None
    assert pair.answers() == [True, True]
    assert complete_snapshots(paths)[0].head.step == 4


def test_a_snapshot_counts_when_all_ranks_have_it_and_none_begins_the_next_before(pair, paths) -> None:
    pair.do("stage", run=str(paths.root), attempt=1, use_ram=True)
    pair.tell(1, "hold_copies", hold=True)
    pair.answer(1)
    assert pair.same("begin")
    pair.do("train", updates=1)
    assert not pair.same("begin")
    assert pair.same("counted") == 0 and not complete_snapshots(paths)
    pair.tell(1, "hold_copies", hold=False)
    pair.answer(1)
    wait_until(lambda: pair.do("counted") == [1, 1])
    assert pair.same("take")
    assert [snapshot.head.step for snapshot in complete_snapshots(paths)] == [1, 0]


def test_where_one_rank_is_not_ready_none_begins_and_the_slot_is_free_again(pair, paths) -> None:
    pair.do("stage", run=str(paths.root), attempt=1, use_ram=True)
    for ready in (False, True):
        pair.tell(1, "be_ready", ready=ready)
        pair.answer(1)
        assert pair.same("take") == ready
        for file in paths.ram.rglob("*.safetensors"):
            with file.open("rb") as taken:
                fcntl.flock(taken, fcntl.LOCK_SH | fcntl.LOCK_NB)
    assert len(complete_snapshots(paths)) == 1


def test_what_other_ranks_left_in_memory_stays_until_there_is_a_newer_one(groups, pair, paths) -> None:
    """Of tensors of several pages, so that the files of two ranks are not as large as that of one."""
    one = groups.of(1)
    one.do("make", arch="mamba2", seed=1, d_model=48)
    one.do("stage", run=str(paths.root), attempt=1, use_ram=True)
    for _ in range(3):
        one.do("train", updates=1)
        assert one.same("take")
    saved = trained(one)
    one.do("unstage")
    newest = complete_snapshots(paths)[0]
    assert go_on_from(pair, "mamba2", newest.path, committed=False, d_model=48) == saved

    assert pair.same("stage", run=str(paths.root), attempt=2, use_ram=True)["in_ram"]
    assert complete_snapshots(paths) == [newest]
    assert go_on_from(one, "mamba2", newest.path, committed=False, d_model=48) == saved
    pair.do("train", updates=1)
    assert pair.same("take")
    wait_until(lambda: not newest.path.exists())
    assert [snapshot.order for snapshot in complete_snapshots(paths)] == [(2, 1)]
