"""The keeper after a power cut, over files that rot, and on disks that fail in unusual ways: it loses nothing, and lives."""

import os

import pytest
from small_slots import slot_file, write_slot

from adam.contract.durable import LineAppender
from adam.contract.lease import take_lease
from adam.contract.paths import RunPaths
from adam.contract.steplog import RowKey
from adam.watchdog.keeper import Keeper
from adam.watchdog.keeper_words import Answer, Commit, Settle
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
