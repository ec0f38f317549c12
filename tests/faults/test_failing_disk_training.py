"""Calls of the trainer that fail: each call of each kind, once and until space returns. Training goes on, or ends with the true reason.

The real loop with a small model, in this process; the real keeper settles behind it. Whatever failed, the run comes to the bits of one
that was left alone, with every step in its log.
"""

import errno
import hashlib
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from failing_disk import FailingDisk
from small_run import make_run, small_config, write_plan

from adam.contract import steplog
from adam.contract.checkpoints import list_checkpoints, rank_file, verify
from adam.contract.config import Config
from adam.contract.config_file import write_lock
from adam.contract.durable import whole_lines
from adam.contract.errors import run_main
from adam.contract.lease import take_lease
from adam.contract.paths import RunPaths
from adam.contract.ram import claim
from adam.contract.records import Resume, StepRow, decode_step, encode_line
from adam.contract.shared import Pulse, read_once
from adam.contract.slots import PADDING, read_head
from adam.contract.snapshots import complete_snapshots
from adam.contract.states import Exit, Phase
from adam.contract.steplog import RowKey, StepLog, copy_path, waiting_rows
from adam.trainer import loop, owed, snapshot
from adam.trainer.attempt import run_attempt
from adam.watchdog.keeper import Keeper
from adam.watchdog.keeper_words import Answer, Settle
from adam.watchdog.store import Store

STEPS = 5
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
KINDS = ("create", "write", "fsync", "rename", "mkdir", "allocate")  # nothing is unlinked where nothing fails


def config(ram: str) -> Config:
    found = small_config(steps=STEPS, eval_every=0)
    return msgspec.structs.replace(found, checkpoint=msgspec.structs.replace(found.checkpoint, ram=ram, every_steps=2))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("template") / "run", config("auto")).root


@pytest.fixture(scope="module")
def undisturbed(template: Path, tmp_path_factory: pytest.TempPathFactory) -> "Life":
    life = Life(tmp_path_factory.mktemp("undisturbed") / "run", template, "auto")
    life.plan()
    assert life.attempt(never) == Exit.OK
    assert not life.settle(commit=True).trouble
    return life


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again without a pause."""
    monkeypatch.setattr(owed, "AGAIN_S", 0.0)
    monkeypatch.setattr(snapshot, "RETRY_S", 0.0)


class Life:
    """A run from its first attempt to its last checkpoint."""

    def __init__(self, root: Path, template: Path, ram: str) -> None:
        shutil.copytree(template, root, dirs_exist_ok=True)
        self.paths = RunPaths(root)
        write_lock(self.paths.lock, config(ram))
        self.attempts = 0
        self.keeper = Keeper(Store(self.paths, 2, 0))
        self.resume: Resume | None = None

    def plan(self) -> None:
        """The watchdog's and the launcher's part of an attempt."""
        self.attempts += 1
        write_plan(self.paths, self.attempts, self.resume)
        fd, _ = take_lease(self.paths, "trainer", self.attempts, self.attempts)
        os.close(fd)

    def attempt(self, asked: Callable[[], bool]) -> int:
        """One attempt of the real trainer; its exit code."""

        def main() -> int:
            return int(Exit.OK if run_attempt(self.paths.root, self.attempts, asked) else Exit.STOPPED)

        return run_main("adam.trainer", main)

    def settle(self, *, commit: bool) -> Answer:
        answer = self.keeper.answer(Settle(self.attempts, self.attempts, commit=commit))
        for path in list_checkpoints(self.paths.checkpoints):
            verify(path)
        newest = answer.newest
        self.resume = Resume(newest.name, newest.step) if newest else None
        if answer.snapshot:
            self.resume = Resume(answer.snapshot.name, answer.snapshot.step, answer.snapshot.slot)
        return answer

    def rows(self) -> list[StepRow]:
        return [decode_step(line, self.paths.steps) for _, line in whole_lines(self.paths.steps)]

    def counting(self) -> list[tuple[object, ...]]:
        """What the rows that count say: of each step the last one."""
        newest = {
            row.step: (row.step, row.loss, row.grad_norm, row.first_sample, row.end_sample) for row in self.rows()
        }
        return [newest[step] for step in sorted(newest)]

    def state(self) -> str:
        """SHA-256 of the newest checkpoint's tensors."""
        file = list_checkpoints(self.paths.checkpoints)[-1] / rank_file(0)
        found = read_head(file)
        assert found is not None
        data = file.read_bytes()
        tensors = [data[p.start : p.end] for name, p in sorted(found[1].items()) if not name.startswith(PADDING)]
        return hashlib.sha256(b"".join(tensors)).hexdigest()

    def check(self, undisturbed: "Life") -> None:
        assert self.counting() == undisturbed.counting()
        keys = [(row.attempt, row.step) for row in self.rows()]
        assert keys == sorted(set(keys))
        assert self.state() == undisturbed.state()
        left = [path.name for path in self.paths.run.iterdir() if path.name.endswith(".tmp")]
        assert left == []


def faults(kinds: tuple[str, ...] = KINDS) -> list[tuple[str, str, bool]]:
    """(kind, tier, for ever): with snapshots in memory, a trainer makes no directory on the disk."""
    every = itertools.product(kinds, ("auto", "off"), (False, True))
    return [(kind, ram, ever) for kind, ram, ever in every if ram == "off" or kind != "mkdir"]


@pytest.mark.parametrize(
    ("kind", "ram", "for_ever"), faults(), ids=[f"{k} {r} {'until' if e else 'once'}" for k, r, e in faults()]
)
def test_training_goes_on_or_ends_with_the_reason(
    tmp_path, template, undisturbed, capfd, kind: str, ram: str, for_ever: bool
) -> None:
    """`ram` off: snapshots are staged on the disk that fails. Space returns in the middle of the run."""
    go_through(tmp_path, template, undisturbed, capfd, kind, ram, lambda at: ERRORS[at % 3], for_ever=for_ever)


@pytest.mark.campaign
@pytest.mark.timeout(600)
@pytest.mark.parametrize("error", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize(("kind", "ram", "for_ever"), faults())
def test_every_error_at_every_call(tmp_path, template, undisturbed, capfd, kind, ram, for_ever, error) -> None:
    go_through(tmp_path, template, undisturbed, capfd, kind, ram, lambda _: error, for_ever=for_ever)


def go_through(tmp_path, template, undisturbed, capfd, kind, ram, error_at, *, for_ever: bool) -> None:
    """Attempts on disks that fail at call 0, 1, … until one is not reached."""
    ended = []
    for at in itertools.count():
        root = tmp_path / f"run-{at}"
        life = Life(root, template, ram)
        life.plan()
        disk = FailingDisk(root, (), kind, at, error_at(at), for_ever=for_ever)
        capfd.readouterr()
        with disk:
            code = life.attempt(space_returns(disk))
        if code != Exit.OK:
            ended.append(at)
            said = capfd.readouterr().err
            assert code == Exit.DISK and os.strerror(disk.error) in said and str(root) in said
            life.settle(commit=False)
            life.plan()
            assert life.attempt(never) == Exit.OK
        pulse = read_once(life.paths.pulse("0"), Pulse)
        assert pulse is not None and pulse.unlogged == 0 and pulse.durable
        assert not copy_path(life.paths).exists()
        assert not life.settle(commit=True).trouble
        life.check(undisturbed)
        shutil.rmtree(root)
        if not disk.reached:
            break
    assert at >= {"create": 5, "write": 7, "fsync": 3, "rename": 2, "mkdir": 2, "allocate": 1}[kind]
    assert set(ended) <= {0}  # the pulse: a trainer that can't be seen is none


def ram_faults() -> list[tuple[str, bool]]:
    return list(itertools.product(("create", "write", "rename", "mkdir", "allocate"), (False, True)))


@pytest.mark.parametrize(("kind", "for_ever"), ram_faults())
def test_memory_that_fails_costs_the_memory_and_no_run(
    tmp_path, template, undisturbed, capfd, monkeypatch, kind, for_ever
) -> None:
    """The calls below $ADAM_SHM: snapshots are staged on the disk then, or taken later, or the reason is told."""
    shm = tmp_path / "shm"
    shm.mkdir()
    monkeypatch.setenv("ADAM_SHM", str(shm))
    for at in itertools.count():
        life = Life(tmp_path / f"run-{at}", template, "auto")
        life.plan()
        disk = FailingDisk(shm, (), kind, at, ERRORS[at % 3], for_ever=for_ever)
        with disk:
            code = life.attempt(space_returns(disk))
        assert code == Exit.OK, capfd.readouterr().err
        assert not life.settle(commit=True).trouble
        life.check(undisturbed)
        shutil.rmtree(life.paths.root)
        if not disk.reached:
            break
    assert at >= {"create": 2, "write": 1, "rename": 1, "mkdir": 2, "allocate": 1}[kind]


def full_log(life: Life) -> FailingDisk:
    """A disk that takes everything but rows of the log."""
    return FailingDisk(life.paths.steps, (), "write", 0, errno.ENOSPC, for_ever=True)


@pytest.mark.parametrize("ram", ["auto", "off"])
def test_no_snapshot_is_ahead_of_the_log(tmp_path, template, undisturbed, ram: str) -> None:
    """On disk it would outlive the rows that wait in memory; so there is none until they are written."""
    life = Life(tmp_path / "run", template, ram)
    life.plan()
    seen = []
    with full_log(life) as disk:
        returns = space_returns(disk)

        def ask() -> bool:
            returns()
            rows = [line for _, line in whole_lines(life.paths.steps)] + waiting_rows(life.paths) * (ram == "auto")
            last = decode_step(rows[-1], life.paths.steps).step if rows else 0
            seen.extend((found.head.step, last, disk.works) for found in complete_snapshots(life.paths))
            return False

        assert life.attempt(ask) == Exit.OK
    assert all(step <= last for step, last, _ in seen)
    assert any(not works for _, _, works in seen) == (ram == "auto")  # in memory they go on
    assert not life.settle(commit=True).trouble
    life.check(undisturbed)


def test_a_power_cut_that_took_rows_takes_the_staged_snapshots_that_need_them(tmp_path, template, undisturbed) -> None:
    """The kernel may have written the slots back before the log: the run then begins where the log has all."""
    life = Life(tmp_path / "run", template, "off")
    life.plan()
    asked = itertools.count()
    assert life.attempt(lambda: next(asked) >= 6) == Exit.STOPPED
    assert [found.head.logged for found in complete_snapshots(life.paths)] == [RowKey(1, 3), RowKey(1, 2)]
    rows = life.paths.steps.read_bytes().splitlines(keepends=True)
    life.paths.steps.write_bytes(b"".join(rows[:2]) + b"\0" * 100)
    answer = life.settle(commit=False)
    assert life.resume is not None and life.resume.step == 2 and "a power cut took rows" in answer.dropped[0].reason
    life.plan()
    assert life.attempt(never) == Exit.OK
    assert not life.settle(commit=True).trouble
    life.check(undisturbed)


def test_stopped_on_a_full_disk_and_gone_on_with_later(tmp_path, template, undisturbed) -> None:
    """What waits in memory is not given back before the disk has it."""
    life = Life(tmp_path / "run", template, "auto")
    life.plan()
    with full_log(life) as disk:
        asked = itertools.count()
        assert life.attempt(lambda: next(asked) >= 5) == Exit.STOPPED
        assert [row.step for row in life.rows()] == [] and len(waiting_rows(life.paths)) == 2
        assert "wait in memory" in life.settle(commit=True).trouble
        found = life.settle(commit=False)  # and for a next attempt it is no trouble
        assert found.snapshot is not None and found.snapshot.step == 2 and not found.trouble
        life.plan()
        assert life.attempt(space_returns(disk)) == Exit.OK
    assert not life.settle(commit=True).trouble
    life.check(undisturbed)


def test_memory_is_not_given_back_while_rows_wait_there(tmp_path, template) -> None:
    """Also those behind the last snapshot, which is on disk already."""
    life = Life(tmp_path / "run", template, "auto")
    life.plan()
    assert life.attempt(never) == Exit.OK
    assert not life.settle(commit=True).trouble
    claim(life.paths)
    with full_log(life) as disk:
        steps = StepLog(life.paths)
        steps.append(encode_line(msgspec.structs.replace(life.rows()[-1], step=STEPS + 1)))
        steps.close()
        assert not life.settle(commit=False).trouble
        assert "wait in memory" in life.settle(commit=True).trouble and copy_path(life.paths).exists()
        disk.works = True
        assert not life.settle(commit=True).trouble
    assert life.rows()[-1].step == STEPS + 1 and not life.paths.ram.exists()


def test_training_waits_where_too_many_rows_do(tmp_path, template, undisturbed, monkeypatch) -> None:
    life = Life(tmp_path / "run", template, "auto")
    life.plan()
    monkeypatch.setattr(steplog, "MOST_WAITING", 2)
    with full_log(life) as disk:

        def sleep(_: float) -> None:
            pulse = read_once(life.paths.pulse("0"), Pulse)
            assert pulse is not None
            stood.append((pulse.unlogged, Phase(pulse.phase)))
            disk.works = len(stood) == 3

        stood: list[tuple[int, Phase]] = []
        monkeypatch.setattr(loop.time, "sleep", sleep)
        assert life.attempt(never) == Exit.OK
    assert stood == [(2, Phase.PAUSED)] * 3
    assert not life.settle(commit=True).trouble
    life.check(undisturbed)


def never() -> bool:
    return False


def space_returns(disk: FailingDisk) -> Callable[[], bool]:
    """What the loop asks at each micro-step; the disk is well again before the last steps."""
    asked = itertools.count()

    def ask() -> bool:
        disk.works = disk.works or next(asked) >= 2 * (STEPS - 2)  # two micro-steps a step
        return False

    return ask
