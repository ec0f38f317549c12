"""Calls that fail: each call of each kind, once and for ever. The keeper goes on, and nothing half made is taken for whole."""

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from crash_work import REASON, Work, apart, step_of, write_slot
from failing_disk import KINDS, FailingDisk, through_all

from adam.contract.checkpoints import list_checkpoints, parse_name, rank_file, verify
from adam.contract.durable import LineAppender, replace_file
from adam.contract.paths import RunPaths
from adam.watchdog.keeper_words import Answer, Commit, Prune, Request, Settle


class Watched:
    """A run whose keeper is asked like the watchdog asks, and whose answers are held to what is on the disk."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.work = Work(root, 2)
        self.work.steps.close()
        self.paths = self.work.paths
        self.rotten = ""
        self.known: set[str] = set()  # acknowledged as verified

    def ask(self, request: Request) -> Answer:
        """Ask, and ask again where there is trouble: twice, then it has to wait."""
        for _ in range(3):
            answer = self.work.keeper.answer(request)
            self.check(answer)
            if not answer.trouble:
                break
        return answer

    def check(self, answer: Answer) -> None:
        verified = {kept.name for kept in answer.checkpoints if kept.verified}
        for path in self.paths.checkpoints.iterdir():
            if parse_name(path.name) and path.name != self.rotten:
                verify(path)
        away = {path.name for path in self.paths.quarantine.iterdir()} if self.paths.quarantine.exists() else set()
        lost = self.known - {path.name for path in list_checkpoints(self.paths.checkpoints)} - away - set(answer.pruned)
        assert not lost
        assert all(any(step_of(name) > step_of(gone) for name in verified) for gone in answer.pruned)
        self.known = (self.known | verified) - set(answer.pruned) - away

    def live(self) -> None:
        """Save, prune, settle, find a rotten checkpoint, put one away; with trouble or without."""
        for step in (10, 20, 30):
            write_slot(self.paths, step, self.work.attempt)
            self.ask(Commit())
        write_slot(self.paths, 40, self.work.attempt)
        self.ask(Settle(1, self.work.attempt))
        self.work.start_attempt()
        self.ask(Settle(2, self.work.attempt))
        if found := list_checkpoints(self.paths.checkpoints):
            self.rotten = found[-1].name
            rot(found[-1] / rank_file(0))
            self.ask(Settle(3, self.work.attempt, verify=True))
        write_slot(self.paths, 50, self.work.attempt)
        made = self.ask(Commit()).checkpoints
        if made:
            self.ask(Settle(4, self.work.attempt, quarantine=made[-1].name, reason="it makes no sense"))
        self.ask(Prune())

    def recover(self) -> None:
        """The disk is well again: the next save goes by itself, and nothing is left of what failed."""
        self.work.start_attempt()
        assert not self.ask(Settle(5, self.work.attempt)).trouble
        write_slot(self.paths, 60, self.work.attempt)
        answer = self.work.keeper.answer(Commit())
        self.check(answer)
        assert answer.committed and not answer.trouble and answer.saves == 60
        left = [path.name for path in self.paths.checkpoints.iterdir() if path.name.startswith((".tmp-", ".trash-"))]
        assert left == []


def rot(path: Path) -> None:
    """A bit flips, whatever calls fail."""
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT], ids=errno.errorcode.get)
@pytest.mark.parametrize("kind", ["create", "write", "fsync", "rename", "mkdir", "unlink"])
def test_the_keeper_goes_on(tmp_path, kind, error, for_ever) -> None:
    def use(disk: FailingDisk) -> None:
        disk.works = True
        watched = Watched(disk.root)
        disk.calls, disk.works = 0, False
        watched.live()
        disk.works = True
        watched.recover()

    def make(at: int) -> FailingDisk:
        root = tmp_path / f"run-{at}"
        return FailingDisk(root, apart(RunPaths(root)), kind, at, error, for_ever=for_ever)

    assert through_all(make, use) >= {"mkdir": 4, "unlink": 8}.get(kind, 10)


@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])
def test_a_disk_that_writes_less_than_it_was_given(tmp_path, for_ever) -> None:
    """Nothing is lost by it, and no snapshot is taken for a bad one."""

    def use(disk: FailingDisk) -> None:
        watched = Watched(disk.root)
        for step in (10, 20):
            write_slot(watched.paths, step, 1)
            answer = watched.ask(Commit())
            assert answer.committed and not answer.trouble and not answer.dropped

    def make(at: int) -> FailingDisk:
        root = tmp_path / f"run-{at}"
        return FailingDisk(root, apart(RunPaths(root)), "write", at, 0, for_ever=for_ever)

    assert through_all(make, use) >= 6


ONE_FILE = [kind for kind in KINDS if kind not in ("mkdir", "allocate")]
FAULTS = [("write", 0), *((kind, error) for kind in ONE_FILE for error in (errno.ENOSPC, errno.EIO))]


@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize(("kind", "error"), FAULTS)
def test_a_log_has_whole_lines_only(tmp_path, kind, error, for_ever) -> None:
    """Every line whose append returned is there once and whole; none that failed is, nor a part of it, behind the next."""

    def use(disk: FailingDisk) -> None:
        disk.root.mkdir(exist_ok=True)
        path = disk.root / "lines"
        path.write_bytes(b"old\ntorn")
        there = [b"old"]
        with suppress(OSError):
            lines = LineAppender(path)
            there += appended(lines)
            disk.works = True
            lines.append(b"at last")
            lines.close()
            assert path.read_bytes().splitlines() == [*there, b"at last"]

    def make(at: int) -> FailingDisk:
        return FailingDisk(tmp_path / f"{at}", (), kind, at, error, for_ever=for_ever)

    through_all(make, use)


def appended(lines: LineAppender) -> Iterator[bytes]:
    for number in range(4):
        line = b"line %d" % number
        with suppress(OSError):
            lines.append(line)
            yield line


def test_a_part_of_a_line_that_could_not_be_cut_off_is_cut_off_later(tmp_path, monkeypatch) -> None:
    lines = LineAppender(tmp_path / "lines")
    lines.append(b"one")
    real_write, real_cut = os.write, os.ftruncate

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "write", lambda fd, data: real_write(fd, data[:2]))
    monkeypatch.setattr(os, "ftruncate", broken)
    with pytest.raises(OSError, match="Input/output error"):
        lines.append(b"two")
    monkeypatch.setattr(os, "write", real_write)
    with pytest.raises(OSError, match="Input/output error"):
        lines.append(b"three")
    monkeypatch.setattr(os, "ftruncate", real_cut)
    lines.append(b"four")
    assert (tmp_path / "lines").read_bytes() == b"one\nfour\n"


@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize(("kind", "error"), FAULTS)
def test_a_replaced_file_is_the_old_or_the_new(tmp_path, kind, error, for_ever) -> None:
    def use(disk: FailingDisk) -> None:
        disk.root.mkdir(exist_ok=True)
        path = disk.root / "a.json"
        path.write_bytes(b"old")
        try:
            replace_file(path, b"the new one")
            assert path.read_bytes() == b"the new one"
        except OSError as failed:
            assert failed.errno == error and failed.filename
            assert path.read_bytes() in (b"old", b"the new one")
        disk.works = True
        replace_file(path, b"well again")
        assert [item.name for item in disk.root.iterdir()] == ["a.json"] and path.read_bytes() == b"well again"

    def make(at: int) -> FailingDisk:
        return FailingDisk(tmp_path / f"{at}", (), kind, at, error, for_ever=for_ever)

    through_all(make, use)


def test_a_reason_that_can_not_be_written_does_not_stop_the_putting_away(tmp_path) -> None:
    watched = Watched(tmp_path / "run")
    write_slot(watched.paths, 10, 1)
    name = watched.ask(Commit()).checkpoints[0].name
    with FailingDisk(tmp_path / "run", apart(watched.paths), "create", 0, errno.ENOSPC, for_ever=True):
        answer = watched.ask(Settle(1, 1, quarantine=name, reason="it makes no sense"))
    assert [item.reason for item in answer.quarantined] == ["it makes no sense"] and not answer.trouble
    assert not (watched.paths.quarantine / name / REASON).exists()


def test_a_checkpoint_whose_name_is_not_durable_is_not_promised(tmp_path) -> None:
    """Its directory could not be fsynced: it is there, and is acknowledged when that went well at last."""
    watched = Watched(tmp_path / "run")
    write_slot(watched.paths, 10, 1)
    with FailingDisk(tmp_path / "run", apart(watched.paths), "fsync", 5, errno.EIO, for_ever=True) as disk:
        answer = watched.ask(Commit())
        assert [kept.verified for kept in answer.checkpoints] == [False] and answer.trouble and answer.saves == 0
        disk.works = True
        answer = watched.ask(Commit())
        assert [kept.verified for kept in answer.checkpoints] == [True] and not answer.trouble and answer.saves == 10


def test_a_bad_checkpoint_is_made_again_from_its_snapshot(tmp_path) -> None:
    """A keeper that did not make it does not take its name for a proof."""
    watched = Watched(tmp_path / "run")
    write_slot(watched.paths, 10, 1)
    name = watched.ask(Commit()).checkpoints[0].name
    rot(watched.paths.checkpoints / name / rank_file(0))
    watched.work.start_keeper()
    answer = watched.ask(Commit())
    assert answer.committed and answer.in_quarantine == 1
