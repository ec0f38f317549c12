"""The keeper: only what is whole, right and its own becomes a checkpoint, however often it is killed."""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import msgspec
import pytest
from small_slots import SIZE, payload, slot_file, write_slot

from adam.contract.checkpoints import MANIFEST, list_checkpoints, verify
from adam.contract.errors import CheckpointError
from adam.contract.lease import take_lease
from adam.contract.records import SnapshotSeen
from adam.contract.slots import SlotWriter, TensorEntry
from adam.watchdog.keeper import Keeper
from adam.watchdog.keeper_words import Answer, Commit, Look, Prune, Settle
from adam.watchdog.store import Store


def lease(paths, token: int = 5) -> None:
    """Somebody held the lease with this token, and is gone."""
    fd, _ = take_lease(paths, "trainer", token, 1)
    os.close(fd)


def flip(path, offset: int = -10) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.fixture
def keeper(paths) -> Keeper:
    lease(paths)
    return Keeper(Store(paths, keep_last=3, milestone_every=0))


def names(answer: Answer) -> list[str]:
    return [kept.name for kept in answer.checkpoints]


def test_commits_the_newest_once(paths, keeper):
    write_slot(paths, 10, 0)
    write_slot(paths, 20, 1, saves=4)
    answer = keeper.answer(Commit())
    assert answer.committed and answer.committed.name == "step-00000020-a01" and answer.saves == 4
    manifest = verify(paths.checkpoints / answer.committed.name)
    assert (manifest.step, manifest.token, manifest.samples) == (20, 5, 20)
    state = json.loads((paths.checkpoints / answer.committed.name / "state.json").read_text())
    assert state["state"] == {"position": 20} and "sums" not in state
    again = keeper.answer(Commit())
    assert again.committed is None and names(again) == ["step-00000020-a01"] and again.saves == 4


def test_a_milestone_is_committed_although_there_is_a_newer_one(paths, keeper):
    """The keeper was busy while both were taken; of the other kinds only the newest is wanted."""
    write_slot(paths, 90, 0)
    write_slot(paths, 100, 1, why="milestone")
    write_slot(paths, 110, 2)
    answer = keeper.answer(Commit(durable_only=True))
    assert [made.step for made in answer.milestones] == [100] and answer.committed and answer.committed.step == 110
    assert names(answer) == ["step-00000100-a01", "step-00000110-a01"]
    assert not keeper.answer(Commit(durable_only=True)).milestones


def test_a_milestone_in_memory_is_on_disk_before_the_next_attempt_writes_over_it(paths, keeper):
    write_slot(paths, 100, 0, in_ram=True, why="milestone")
    write_slot(paths, 103, 1, in_ram=True, why="ram", durable=False)
    answer = keeper.answer(Settle(1, 5, commit=False))
    assert names(answer) == ["step-00000100-a01"] and answer.snapshot and answer.snapshot.step == 103


def test_a_full_disk_costs_a_milestone_and_no_start(paths, keeper, monkeypatch):
    write_slot(paths, 100, 0, in_ram=True, why="milestone")
    write_slot(paths, 103, 1, in_ram=True, why="ram", durable=False)
    monkeypatch.setattr("adam.watchdog.commit.free_bytes", lambda _path: 10)
    answer = keeper.answer(Settle(1, 5, commit=False))
    assert answer.snapshot and answer.snapshot.step == 103 and not answer.trouble
    assert [(item.name, "no room" in item.reason) for item in answer.dropped] == [("milestone", True)]


@pytest.mark.parametrize("in_ram", [True, False])
def test_a_commit_says_whether_its_bytes_were_on_the_disk_before(paths, keeper, in_ram):
    write_slot(paths, 10, 0, in_ram=in_ram)
    answer = keeper.answer(Commit())
    assert answer.committed and answer.committed.staged is not in_ram


def test_a_flipped_bit_in_a_slot_is_not_committed(paths, keeper):
    write_slot(paths, 10, 0)
    write_slot(paths, 20, 1)
    flip(slot_file(paths, 1))
    answer = keeper.answer(Commit())
    assert [item.name for item in answer.dropped] == ["slot-1"]
    assert names(answer) == ["step-00000010-a01"]  # the one before is there
    assert not keeper.answer(Commit()).dropped  # told once


@pytest.mark.parametrize(
    ("slot", "why"),
    [({"token": 4}, "no longer had the lease"), ({"run": "another"}, "another run's")],
)
def test_a_stranger_is_never_committed(paths, keeper, slot, why):
    write_slot(paths, 10, **slot)
    assert keeper.answer(Commit()).committed is None
    assert (slot_file(paths)).exists()  # a living trainer may be about to use it
    answer = keeper.answer(Settle(1, 5))
    assert answer.committed is None and why in answer.dropped[0].reason
    assert not (slot_file(paths)).exists()


def test_a_look_says_what_is_there_and_that_one_of_it_is_right(paths, keeper):
    write_slot(paths, 10, 0)
    write_slot(paths, 20, 1)
    keeper.answer(Commit())
    young = Keeper(Store(paths, keep_last=3))  # after the death of the one before
    answer = young.answer(Look())
    assert answer.request == "look" and answer.newest and answer.newest.step == 20
    assert [kept.verified for kept in answer.checkpoints] == [True]
    flip(paths.checkpoints / answer.newest.name / "rank-00000.safetensors")
    answer = Keeper(Store(paths, keep_last=3)).answer(Look())
    assert answer.newest is None and names(answer) == ["step-00000020-a01"]  # put away by who settles


def test_an_incomplete_slot_is_dropped_when_settling(paths, keeper):
    write_slot(paths, 10, 0)
    slot_file(paths, 1).parent.mkdir()
    writer = SlotWriter(slot_file(paths, 1), [TensorEntry("w", "U8", (SIZE,))])
    writer.begin()
    assert keeper.answer(Commit()).committed  # the other one; this one is left in peace
    writer.close()
    assert keeper.answer(Settle(1, 5)).dropped[0].reason == "the snapshot was not complete"


def test_a_slot_that_is_being_written_is_left_alone(paths, keeper):
    write_slot(paths, 10, 0)
    writer = SlotWriter(slot_file(paths), [TensorEntry("w", "U8", (SIZE,))])
    head_still_there = (slot_file(paths)).read_bytes()[:8]
    assert writer.begin()
    with (slot_file(paths)).open("r+b") as file:
        file.write(head_still_there)  # a writer that is so slow that the header of before is still to be seen
    assert keeper.answer(Commit()).committed is None
    writer.close()


def test_settling_commits_what_was_left_and_says_what_is_there(paths, keeper):
    write_slot(paths, 10)
    answer = keeper.answer(Settle(9, 5))
    assert (answer.id, answer.token) == (9, 5) and names(answer) == ["step-00000010-a01"]
    assert answer.newest and answer.newest.verified


def test_settling_is_refused_while_the_lease_is_held(paths, keeper):
    write_slot(paths, 10)
    fd, _ = take_lease(paths, "trainer", 5, 1)
    assert "held" in keeper.answer(Settle(1, 5)).trouble
    os.close(fd)
    assert not keeper.answer(Settle(2, 5)).trouble


def test_what_a_crash_left_in_memory_is_what_the_next_attempt_begins_from(paths, keeper):
    write_slot(paths, 10, 0, in_ram=True, durable=False)
    slot = write_slot(paths, 20, 1, in_ram=True, durable=False)
    answer = keeper.answer(Settle(1, 5, commit=False))
    assert answer.snapshot == SnapshotSeen("step-00000020-a01", 20, str(slot)) and not answer.checkpoints
    # That attempt died before its first snapshot: its slot is still the one.
    lease(paths, token=6)
    answer = keeper.answer(Settle(2, 6, resumed="step-00000020-a01", commit=False))
    assert answer.snapshot and answer.snapshot.slot == str(slot)
    answer = keeper.answer(Commit(resumed="step-00000020-a01"))
    assert answer.committed and answer.committed.step == 20
    # On disk now, so nothing is gained by memory.
    assert keeper.answer(Settle(3, 6, resumed="step-00000020-a01", commit=False)).snapshot is None


def test_a_run_that_ends_leaves_nothing_in_memory(paths, keeper):
    write_slot(paths, 20, 1, in_ram=True, durable=False)
    answer = keeper.answer(Settle(1, 5, commit=True))
    assert names(answer) == ["step-00000020-a01"] and not answer.dropped
    assert not paths.ram.exists()


def test_snapshots_for_the_next_attempt_are_not_committed_unless_asked(paths, keeper):
    write_slot(paths, 10, 0, in_ram=True)
    write_slot(paths, 20, 1, in_ram=True, durable=False)
    assert names(keeper.answer(Commit(durable_only=True))) == ["step-00000010-a01"]
    assert names(keeper.answer(Commit())) == ["step-00000010-a01", "step-00000020-a01"]


def test_a_snapshot_that_training_failed_after_is_dropped(paths, keeper):
    write_slot(paths, 10, 0)
    keeper.answer(Commit())
    slot = write_slot(paths, 20, 1, in_ram=True, durable=False)
    answer = keeper.answer(Settle(1, 5, commit=False, quarantine="step-00000020-a01", reason="failed twice"))
    assert answer.snapshot is None and [item.reason for item in answer.dropped] == ["failed twice"]
    assert not slot.exists() and names(answer) == ["step-00000010-a01"]


def test_all_that_came_after_numeric_trouble_is_put_away(paths, keeper):
    for step in (10, 20, 30):
        write_slot(paths, step, 0)
        keeper.answer(Commit())
    old = write_slot(paths, 15, 0, in_ram=True, durable=False, sequence=1)
    young = write_slot(paths, 40, 1, in_ram=True, durable=False, sequence=2)
    answer = keeper.answer(Settle(1, 5, commit=False, beyond=15, reason="spike at step 16"))
    assert [(item.name, item.reason) for item in answer.quarantined] == [
        ("step-00000030-a01", "spike at step 16"),
        ("step-00000020-a01", "spike at step 16"),
    ]
    assert names(answer) == ["step-00000010-a01"] and answer.in_quarantine == 2
    assert (paths.quarantine / "step-00000030-a01" / "REASON.txt").read_text() == "spike at step 16\n"
    # The snapshot from before is what is gone back to, though checkpoints of later steps were there.
    assert {item.reason for item in answer.dropped} == {"spike at step 16"} and not young.exists()
    assert answer.snapshot and (answer.snapshot.step, answer.snapshot.slot) == (15, str(old))
    again = keeper.answer(Settle(2, 5, commit=False, beyond=15, reason="spike at step 16"))
    assert not again.quarantined and names(again) == ["step-00000010-a01"]


def test_where_nothing_is_trusted_a_flipped_bit_in_memory_is_found(paths, keeper):
    slot = write_slot(paths, 20, 1, in_ram=True, durable=False)
    flip(slot / "rank-00000.safetensors")
    assert keeper.answer(Settle(1, 5, commit=False)).snapshot  # whoever begins from it looks at its bytes
    answer = keeper.answer(Settle(2, 5, commit=False, verify=True))
    assert answer.snapshot is None and "not those that were written" in answer.dropped[0].reason


def test_several_ranks_make_one_checkpoint(paths, keeper):
    slot = write_slot(paths, 10, world=3)
    answer = keeper.answer(Commit())
    assert names(answer) == ["step-00000010-a01"]
    directory = paths.checkpoints / "step-00000010-a01"
    manifest = verify(directory)
    assert [file.name for file in manifest.files] == [
        *(f"rank-0000{rank}.safetensors" for rank in range(3)),
        "state.json",
    ]
    assert payload(10, rank=2) in (directory / "rank-00002.safetensors").read_bytes()
    write_slot(paths, 20, world=3)
    (slot / "rank-00001.safetensors").unlink()
    assert keeper.answer(Commit()).committed is None


def test_ranks_of_different_snapshots_are_not_one(paths, keeper):
    slot = write_slot(paths, 10, world=2)
    older = (slot / "rank-00001.safetensors").read_bytes()
    write_slot(paths, 20, world=2)
    (slot / "rank-00001.safetensors").write_bytes(older)
    assert keeper.answer(Commit()).committed is None


def test_bad_checkpoints_are_put_away_until_one_verifies(paths, keeper):
    for step in (10, 20, 30):
        write_slot(paths, step)
        keeper.answer(Commit())
    flip(paths.checkpoints / "step-00000030-a01" / "rank-00000.safetensors")
    flip(paths.checkpoints / "step-00000020-a01" / MANIFEST, 40)
    write_slot(paths, 5, attempt=2)  # nothing that could be committed in their place
    slot_file(paths).unlink(missing_ok=True)
    answer = keeper.answer(Settle(1, 5, verify=True))
    assert [item.name for item in answer.quarantined] == ["step-00000030-a01", "step-00000020-a01"]
    assert names(answer) == ["step-00000010-a01"] and answer.checkpoints[0].verified and answer.in_quarantine == 2


def test_what_this_keeper_checked_is_read_once_only_while_untouched(paths, keeper, monkeypatch):
    write_slot(paths, 10)
    keeper.answer(Commit())
    monkeypatch.setattr("adam.watchdog.store.verify", lambda _: pytest.fail("read again"))
    assert keeper.answer(Settle(1, 5)).checkpoints[0].verified
    monkeypatch.undo()
    slot_file(paths).unlink(missing_ok=True)
    flip(paths.checkpoints / "step-00000010-a01" / "rank-00000.safetensors")
    assert keeper.answer(Settle(2, 5)).quarantined


def test_a_checkpoint_of_a_newer_adam_is_not_touched(paths, keeper):
    write_slot(paths, 10)
    keeper.answer(Commit())
    manifest = paths.checkpoints / "step-00000010-a01" / MANIFEST
    blank = re.sub(rb'"self_sha256": "[0-9a-f]*"', b'"self_sha256": ""', manifest.read_bytes())
    newer = blank.replace(b'"schema": 1', b'"schema": 9')
    seal = hashlib.sha256(newer).hexdigest().encode()
    manifest.write_bytes(newer.replace(b'"self_sha256": ""', b'"self_sha256": "%s"' % seal))
    slot_file(paths).unlink(missing_ok=True)
    answer = Keeper(Store(paths, 3, 0)).answer(Settle(1, 5))
    assert "schema 9" in answer.refused and names(answer) == ["step-00000010-a01"]


def test_retention_after_a_commit(paths, keeper):
    for step in (10, 20, 30, 40, 50):
        write_slot(paths, step)
        answer = keeper.answer(Commit())
    assert names(answer) == ["step-00000030-a01", "step-00000040-a01", "step-00000050-a01"]
    assert answer.pruned == ("step-00000020-a01",)


def test_leftovers_of_a_dead_keeper(paths, keeper):
    (paths.checkpoints / ".tmp-step-00000010-a01").mkdir()
    (paths.checkpoints / ".trash-step-00000001-a01").mkdir()
    keeper.answer(Settle(1, 5))
    assert [path.name for path in paths.checkpoints.iterdir()] == [".staging"]


def test_no_room_is_trouble_and_leaves_nothing(paths, keeper, monkeypatch):
    write_slot(paths, 10)
    monkeypatch.setattr("adam.watchdog.commit.free_bytes", lambda _: 1000)
    answer = keeper.answer(Commit())
    assert "no room for the next checkpoint" in answer.trouble and not answer.checkpoints
    monkeypatch.undo()
    assert keeper.answer(Commit()).committed


def test_no_room_lets_old_ones_go_first(paths, keeper, monkeypatch):
    for step in (10, 20, 30):
        write_slot(paths, step)
        keeper.answer(Commit())
    monkeypatch.setattr("adam.watchdog.commit.free_bytes", lambda path: 0 if len(list_checkpoints(path)) > 1 else 10**9)
    write_slot(paths, 40)
    answer = keeper.answer(Commit())
    assert names(answer) == ["step-00000030-a01", "step-00000040-a01"]
    assert answer.pruned == ("step-00000010-a01", "step-00000020-a01")


def test_a_keeper_that_has_just_started_lets_old_ones_go_too(paths, keeper, monkeypatch):
    for step in (10, 20, 30):
        write_slot(paths, step)
        keeper.answer(Commit())
    write_slot(paths, 40)
    monkeypatch.setattr("adam.watchdog.commit.free_bytes", lambda path: 0 if len(list_checkpoints(path)) > 1 else 10**9)
    answer = Keeper(Store(paths, keep_last=3, milestone_every=0)).answer(Commit())
    assert answer.committed and answer.pruned == ("step-00000010-a01", "step-00000020-a01")


def test_a_new_keeper_lets_nobody_wait_who_begins_in_memory(paths, keeper):
    write_slot(paths, 10)
    keeper.answer(Commit())
    write_slot(paths, 20, 1, in_ram=True)
    other = Keeper(Store(paths, keep_last=3, milestone_every=0))
    answer = other.answer(Settle(9, 5, commit=False))
    assert answer.snapshot and answer.snapshot.step == 20 and not answer.newest, "no byte of the disk was read for it"
    other.afterwards()
    assert other.answer(Prune()).newest.step == 10


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk_frees_itself(paths):
    lease(paths)
    write_slot(paths, 10, size=600_000)
    slot = slot_file(paths).read_bytes()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(paths.checkpoints)], check=False)
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        slot_file(paths).parent.mkdir(parents=True)
        slot_file(paths).write_bytes(slot)
        (paths.checkpoints / "filler").write_bytes(bytes(2_500_000))
        keeper = Keeper(Store(paths, 3, 0))
        assert keeper.answer(Commit()).trouble
        assert sorted(path.name for path in paths.checkpoints.iterdir()) == [".staging", "filler"]
        (paths.checkpoints / "filler").unlink()
        assert keeper.answer(Commit()).committed
    finally:
        subprocess.run(["umount", str(paths.checkpoints)], check=True)


def test_a_disk_that_fails_in_the_middle(paths, keeper, monkeypatch):
    write_slot(paths, 10)
    for fail_at in range(1, 8):
        calls = 0

        def fsync(_: int, fail_at: int = fail_at) -> None:
            nonlocal calls
            calls += 1
            if calls == fail_at:
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", fsync)
        answer = keeper.answer(Commit())
        monkeypatch.undo()
        left = [path.name for path in paths.checkpoints.iterdir() if path.name != ".staging"]
        if answer.trouble:
            assert "No space left" in answer.trouble
            assert left in ([], ["step-00000010-a01"])  # renamed before the last fsync: whole, whether durable or not
    verify(paths.checkpoints / "step-00000010-a01")


@pytest.mark.timeout(100)
def test_killed_at_any_moment_it_never_leaves_a_bad_checkpoint(paths):
    lease(paths)
    chance = random.Random(1)
    command = [sys.executable, "-P", "-m", "adam.watchdog.keeper", "--run", str(paths.root)]
    command += ["--parent", str(os.getpid()), "--keep-last", "2", "--milestone-every", "0"]
    interrupted = 0
    for step in range(1, 26):
        write_slot(paths, step, step % 2, size=3_000_000)
        keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        assert keeper.stdin and keeper.stdout
        keeper.stdin.write(b'{"request":"settle","id":1,"token":5}\n')
        if chance.random() < 0.8:
            while not (paths.checkpoints / f".tmp-step-{step:08d}-a01").exists() and keeper.poll() is None:
                time.sleep(0.0005)
            time.sleep(chance.random() * 0.03)
            keeper.send_signal(signal.SIGKILL)
        keeper.stdin.close()
        interrupted += not keeper.stdout.read()
        keeper.stdout.close()
        keeper.wait()
        for path in list_checkpoints(paths.checkpoints):
            verify(path)
    assert interrupted > 5
    answer = Keeper(Store(paths, 2, 0)).answer(Settle(1, 5))
    assert answer.newest and answer.newest.step == 25


def test_every_flipped_bit_of_a_checkpoint_is_caught(paths, keeper):
    write_slot(paths, 10, size=2000)
    keeper.answer(Commit())
    directory = paths.checkpoints / "step-00000010-a01"
    chance = random.Random(2)
    for path in directory.iterdir():
        good = path.read_bytes()
        for _ in range(40):
            bad = bytearray(good)
            bad[chance.randrange(len(bad))] ^= 1 << chance.randrange(8)
            path.write_bytes(bad)
            with pytest.raises(CheckpointError):
                verify(directory)
        path.write_bytes(good)
    verify(directory)


def test_prune_and_words(keeper):
    assert keeper.answer(Prune()).request == "prune"
    line = msgspec.json.encode(keeper.answer(Settle(3, 5)))
    assert msgspec.json.decode(line, type=Answer).id == 3
