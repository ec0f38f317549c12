"""The keeper after a power cut, over files that rot, and on disks that fail in unusual ways: it loses nothing, and lives."""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from small_slots import slot_file, write_slot

from adam.contract.checkpoints import MANIFEST
from adam.contract.durable import LineAppender
from adam.contract.lease import read_lease, take_lease
from adam.contract.paths import RunPaths
from adam.contract.steplog import RowKey
from adam.watchdog.keeper import Keeper
from adam.watchdog.keeper_words import Answer, Commit, Look, Prune, Settle
from adam.watchdog.store import Store


@pytest.fixture
def keeper(paths) -> Keeper:
    """Of a run whose attempt with token 5 is over."""
    fd, _ = take_lease(paths, "trainer", 5, 1)
    os.close(fd)
    return Keeper(Store(paths, keep_last=3, milestone_every=0))


def names(answer: Answer) -> list[str]:
    return [kept.name for kept in answer.checkpoints]


def log_steps(paths: RunPaths, *steps: int) -> None:
    log = LineAppender(paths.steps)
    for step in steps:
        log.append(b'{"attempt":1,"step":%d}' % step)
    log.close()


@pytest.mark.parametrize("lost", ["the end", "a sector before the end", "all"])
def test_a_staged_snapshot_that_outlived_its_rows_is_dropped(paths, keeper, lost) -> None:
    """A power cut: the kernel had written the slots back, and not the log."""
    write_slot(paths, 30, 0, logged=RowKey(1, 30))
    log_steps(paths, *range(1, 31))
    rows = paths.steps.read_bytes()
    log_steps(paths, *range(31, 41))
    write_slot(paths, 40, 1, logged=RowKey(1, 40))
    match lost:
        case "the end":
            paths.steps.write_bytes(rows + b'{"attempt":1,"st')
        case "a sector before the end":
            paths.steps.write_bytes(rows + bytes(300) + b'{"attempt":1,"step":40}\n')
        case "all":
            paths.steps.write_bytes(b"")
    answer = keeper.answer(Settle(1, 5))
    expected = [] if lost == "all" else ["step-00000030-a01"]
    assert names(answer) == expected and not answer.trouble
    assert ("slot-1", "a power cut took rows of the log of steps that it needs") in [
        (item.name, item.reason) for item in answer.dropped
    ]


def test_a_staged_snapshot_whose_rows_are_there_is_committed(paths, keeper) -> None:
    """Also where steps between two rows are not logged, and where the log goes on behind it."""
    write_slot(paths, 45, 0, logged=RowKey(1, 40))
    log_steps(paths, *range(10, 60, 10))
    answer = keeper.answer(Settle(1, 5))
    assert names(answer) == ["step-00000045-a01"] and not answer.dropped


def test_a_staged_snapshot_of_which_a_power_cut_left_a_part_is_dropped(paths, keeper) -> None:
    """Any page of the payload may be that of the snapshot before, or nothing: its sums say so."""
    log_steps(paths, 10, 20)
    write_slot(paths, 10, 0, logged=RowKey(1, 10))
    keeper.answer(Commit())
    before = slot_file(paths, 0).read_bytes()
    write_slot(paths, 20, 0, logged=RowKey(1, 20))
    whole = slot_file(paths, 0).read_bytes()
    first = len(whole) // 4096 - 20  # a page of the payload
    for old in (before, bytes(len(whole))):
        for page in (first, first + 7, first + 20):
            torn = whole[: page * 4096] + old[page * 4096 : (page + 1) * 4096] + whole[(page + 1) * 4096 :]
            assert torn != whole
            slot_file(paths, 0).write_bytes(torn)
            answer = keeper.answer(Commit())
            assert names(answer) == ["step-00000010-a01"]
            keeper = Keeper(Store(paths, keep_last=3, milestone_every=0))


REQUESTS = [Look(), Prune(), Commit(), Settle(1, 5)]


def rot(path: Path, offset: int) -> None:
    """A bit flips on the disk: nobody wrote, so the time of change is what it was."""
    was = path.stat()
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


@pytest.fixture
def saved(paths, keeper) -> Keeper:
    """Two checkpoints, and no slot."""
    for step in (10, 20):
        write_slot(paths, step)
        keeper.answer(Commit())
    slot_file(paths).unlink()
    return keeper


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_a_manifest_that_rots_under_a_keeper_costs_one_checkpoint(paths, saved, request_) -> None:
    rot(paths.checkpoints / "step-00000020-a01" / MANIFEST, 60)
    answer = saved.answer(request_)
    assert not answer.trouble and (answer.newest is None or answer.newest.step == 10)
    assert [kept.verified for kept in answer.checkpoints if kept.step == 20] in ([False], [])
    saved.afterwards()
    answer = saved.answer(Settle(2, 5))
    assert names(answer) == ["step-00000010-a01"] and answer.newest and answer.newest.step == 10
    assert (paths.quarantine / "step-00000020-a01" / "REASON.txt").exists()


def failing_reads(monkeypatch: pytest.MonkeyPatch, what: str, error: int) -> None:
    """Whoever reads a file of that name meets an error."""
    real = Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path.name == what:
            raise OSError(error, os.strerror(error), str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_a_manifest_that_cannot_be_read_is_no_reason_to_end(saved, monkeypatch, request_) -> None:
    failing_reads(monkeypatch, MANIFEST, errno.EIO)
    answer = saved.answer(request_)
    assert answer.newest is None and answer.request == type(request_).__name__.lower()
    saved.afterwards()
    monkeypatch.undo()
    assert saved.answer(Commit()).request == "commit"


UNUSUAL = [errno.ENOENT, errno.ESTALE, errno.ENOMEM, errno.EACCES, errno.EIO]


@pytest.mark.parametrize("error", UNUSUAL, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["iterdir", "rename", "mkdir", "stat"])
@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_any_error_of_the_disk_is_told_and_survived(paths, saved, monkeypatch, call, error, request_) -> None:
    if (call, error) == ("stat", errno.ENOENT):
        pytest.skip("no error, but: there is nothing")
    write_slot(paths, 30)
    real: Callable[..., object] = getattr(Path, call)

    def fails(path: Path, *arguments: object, **options: object) -> object:
        if path.is_relative_to(paths.checkpoints) and path.name != "rank-00000.safetensors":
            raise OSError(error, os.strerror(error), str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(Path, call, fails)
    answer = saved.answer(request_)
    saved.afterwards()
    monkeypatch.undo()
    if answer.trouble:
        assert os.strerror(error) in answer.trouble and str(paths.checkpoints) in answer.trouble
        assert names(answer)[:1] == ["step-00000010-a01"], "what was known is told again"
    answer = saved.answer(Settle(2, 5))
    assert not answer.trouble and names(answer)[-1] == "step-00000030-a01"


def test_checkpoints_that_somebody_deletes_all_are_trouble_and_then_made_again(paths, saved) -> None:
    for path in sorted(paths.checkpoints.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    paths.checkpoints.rmdir()
    assert re.search(
        "No such file or directory.*checkpoints", saved.answer(Commit()).trouble + saved.answer(Prune()).trouble
    )
    assert not saved.answer(Settle(2, 5)).checkpoints
    write_slot(paths, 30)
    assert names(saved.answer(Commit())) == ["step-00000030-a01"]


@pytest.mark.parametrize("damage", [b"", bytes(1024), b'{"program":"trai', b"\xff" * 1024, b"[1]"])
def test_a_damaged_lease_keeps_nobody_from_starting(paths, saved, damage) -> None:
    paths.lease.write_bytes(damage)
    assert read_lease(paths) is None
    for request in REQUESTS:
        answer = saved.answer(request)
        assert not answer.trouble and answer.newest and answer.newest.step == 20
    fd, lease = take_lease(paths, "trainer", 6, 2)
    paths.lease.write_bytes(damage)
    assert "the lease is held" in saved.answer(Settle(2, 5)).trouble, "the lock says so, whatever is in the file"
    os.close(fd)
    assert lease.token == 6
