"""Keepers of several runs over one shared memory, as real processes: each guards its own run's, and removes what is nobody's."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from small_slots import write_slot

from adam.contract.lease import take_lease
from adam.contract.paths import RunPaths
from adam.contract.ram import OWNER
from adam.contract.snapshots import complete_snapshots
from adam.watchdog.keeper_words import Answer, Look, Request, Settle


@pytest.fixture(autouse=True)
def own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "shm"
    place.mkdir()
    monkeypatch.setenv("ADAM_SHM", str(place))


@pytest.fixture
def other(tmp_path: Path) -> RunPaths:
    paths = RunPaths(tmp_path / "other")
    paths.run.mkdir(parents=True)
    return paths


class KeeperProcess:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def ask(self, request: Request) -> Answer:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(msgspec.json.encode(request) + b"\n")
        return msgspec.json.decode(self.process.stdout.readline(), type=Answer)


@contextmanager
def keeper_of(paths: RunPaths) -> Iterator[KeeperProcess]:
    command = [sys.executable, "-P", "-m", "adam.watchdog.keeper", "--run", str(paths.root)]
    command += ["--parent", str(os.getpid()), "--keep-last", "2", "--milestone-every", "0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        keeper = KeeperProcess(process)
        keeper.ask(Look())
        yield keeper
        process.kill()


def snapshot_of_a_dead_trainer(paths: RunPaths) -> Path:
    """In memory only; its run lies where other containers see nothing."""
    fd, _ = take_lease(paths, "trainer", 5, 1)
    os.close(fd)
    slot = write_slot(paths, 20, in_ram=True, durable=False)
    (paths.ram / OWNER).write_text("/only/in/this/container\n")
    return slot


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_memory_of_a_run_that_waits_is_left_alone_by_other_containers(paths, other, when: str) -> None:
    """Its trainer is dead, and its keeper lives: the snapshot is all that there is of the last steps."""
    slot = snapshot_of_a_dead_trainer(paths) if when == "before" else paths.ram / "slot-0"
    with keeper_of(paths) as keeper:
        if when == "after":
            snapshot_of_a_dead_trainer(paths)
        left = keeper.ask(Settle(1, 5, commit=False)).snapshot
        assert left and left.slot == str(slot)
        with keeper_of(other):
            assert slot.is_dir()
        answer = keeper.ask(Settle(2, 5))  # it gives the memory back, and holds what a next trainer makes
        assert answer.newest and answer.newest.step == 20 and not paths.ram.exists()
        write_slot(paths, 30, in_ram=True, durable=False)
        (paths.ram / OWNER).write_text("/only/in/this/container\n")
        keeper.ask(Look())
        with keeper_of(other):
            assert slot.is_dir()


def test_a_keeper_that_starts_removes_the_memory_of_a_run_that_is_gone(paths, other) -> None:
    slot = snapshot_of_a_dead_trainer(paths)
    with keeper_of(paths):
        pass
    assert slot.is_dir()
    with keeper_of(other):
        assert not paths.ram.exists()


def test_the_memory_of_slots_that_nobody_will_read_is_kept_for_the_attempt_that_follows(paths) -> None:
    """To free and to allocate 33 GB takes seconds, in which a run would stand still."""
    newest = snapshot_of_a_dead_trainer(paths)
    half, strange = write_slot(paths, 25, 1, in_ram=True), write_slot(paths, 30, 2, token=4, in_ram=True)
    files = [slot / "rank-00000.safetensors" for slot in (half, strange)]
    with files[0].open("r+b") as file:
        file.write(bytes(8))
    memory = [(file.stat().st_ino, file.stat().st_blocks) for file in files]
    with keeper_of(paths) as keeper:
        answer = keeper.ask(Settle(1, 5, commit=False))
        assert answer.snapshot and answer.snapshot.slot == str(newest)
        assert [item.reason.split(" (")[0] for item in answer.dropped] == [
            "the snapshot was not complete",
            "the snapshot's writer",
        ]
        assert memory == [(file.stat().st_ino, file.stat().st_blocks) for file in files]
        assert [snapshot.path for snapshot in complete_snapshots(paths)] == [newest]
