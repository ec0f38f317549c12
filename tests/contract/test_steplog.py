"""The log of steps on a disk that fails, under a writer that is killed: no row that was promised is missing, none is there twice."""

import errno
import random
import shutil

import pytest
from failing_disk import FailingDisk

from adam.contract import steplog
from adam.contract.durable import whole_lines
from adam.contract.errors import DiskError
from adam.contract.paths import RunPaths
from adam.contract.ram import claim
from adam.contract.steplog import (
    RowKey,
    StepLog,
    copy_path,
    newest_key,
    require_logged,
    waiting_rows,
    write_left_behind,
)


@pytest.fixture
def paths(tmp_path) -> RunPaths:
    paths = RunPaths(tmp_path / "run")
    paths.run.mkdir(parents=True)
    claim(paths)
    yield paths
    shutil.rmtree(paths.ram, ignore_errors=True)


def row(attempt: int, step: int) -> bytes:
    return b'{"attempt":%d,"step":%d}' % (attempt, step)


def logged(paths: RunPaths) -> list[bytes]:
    return [line for _, line in whole_lines(paths.steps)]


def full_disk(paths: RunPaths) -> FailingDisk:
    return FailingDisk(paths.root, (), "write", 0, errno.ENOSPC, for_ever=True)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_happens_no_promised_row_is_missing_and_none_is_there_twice(paths, seed) -> None:
    """Appends, a disk that fills up and is freed, kills, and memory that somebody deletes, in any order."""
    chance = random.Random(seed)
    with full_disk(paths) as disk:
        disk.works = True
        log, attempt, step, promised = StepLog(paths), 1, 0, []
        for _ in range(60):
            match chance.choices(("append", "toggle", "kill", "delete", "write"), (60, 12, 10, 5, 13))[0]:
                case "append":
                    step += 1
                    log.append(row(attempt, step))
                    promised.append(row(attempt, step))
                case "toggle":
                    disk.works = not disk.works
                case "kill":
                    log, attempt, step = StepLog(paths), attempt + 1, max(0, step - 2)
                case "delete":
                    shutil.rmtree(paths.ram)
                    claim(paths)
                    log.write()  # before the next snapshot
                case "write":
                    assert log.write() == (log.waiting == 0)
            assert log.copied and logged(paths) + waiting_rows(paths) == promised
            assert log.waiting == len(waiting_rows(paths))
        disk.works = True
        assert log.write() and logged(paths) == promised and not copy_path(paths).exists()


def test_without_memory_nothing_is_promised_and_nothing_is_dropped(paths) -> None:
    shutil.rmtree(paths.ram)
    with full_disk(paths) as disk:
        log = StepLog(paths)
        log.append(row(1, 1))
        assert (log.waiting, log.copied, log.error) == (1, False, errno.ENOSPC)
        claim(paths)
        log.write()
        assert log.copied
        disk.works = True
        assert log.write() and logged(paths) == [row(1, 1)] and log.error == 0


def test_a_row_that_was_written_before_the_kill_is_not_written_again(paths) -> None:
    """Killed between the last row's way to the disk and the end of its copy."""
    with full_disk(paths):
        log = StepLog(paths)
        for step in (1, 2, 3):
            log.append(row(1, step))
    paths.steps.write_bytes(row(1, 1) + b"\n" + row(1, 2) + b"\n" + row(1, 3)[:5])
    assert waiting_rows(paths) == [row(1, 3)]
    write_left_behind(paths)
    assert logged(paths) == [row(1, step) for step in (1, 2, 3)]


def test_no_checkpoint_may_be_ahead_of_the_log(paths) -> None:
    require_logged(paths)
    with full_disk(paths) as disk:
        log = StepLog(paths)
        log.append(row(1, 1))
        with pytest.raises(DiskError, match=r"1 rows of .*steps\.jsonl wait in memory"):
            require_logged(paths)
        with pytest.raises(DiskError, match="wait in memory"):
            write_left_behind(paths)
        disk.works = True
        write_left_behind(paths)
        require_logged(paths)
    assert logged(paths) == [row(1, 1)]


def test_what_waits_is_bounded(paths, monkeypatch) -> None:
    monkeypatch.setattr(steplog, "MOST_WAITING", 3)
    with full_disk(paths):
        log = StepLog(paths)
        for step in (1, 2):
            log.append(row(1, step))
        assert not log.full
        log.append(row(1, 3))
        assert log.full and log.waiting == 3


def test_damaged_rows_are_no_end_of_it(paths) -> None:
    paths.steps.write_bytes(row(1, 1) + b"\n" + row(1, 2) + b'\n{"attempt":\xff\n[[\n{"attempt":5}\n')
    copy_path(paths).write_bytes(row(1, 2) + b"\nnonsense\n" + row(1, 3) + b"\n")
    assert newest_key(paths.steps) == RowKey(1, 2)
    assert waiting_rows(paths) == [row(1, 3)]
    assert newest_key(paths.root / "none") == RowKey(0, 0)
