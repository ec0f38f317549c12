"""The smaller parts: events, memory across deaths, numerics, out-of-memory, files that change."""

import os
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from adam.contract import schema
from adam.contract.process import start_ticks
from adam.contract.records import BackendReport, Numerics, Plan, Status
from adam.contract.states import FailureClass, RunState
from adam.watchdog.act import send_signal
from adam.watchdog.backend import backend_news
from adam.watchdog.child_log import ChildLog
from adam.watchdog.journal import Journal
from adam.watchdog.log import logger_to
from adam.watchdog.numerics import NumericsMemory, hear_numerics
from adam.watchdog.oom import kernel_says_oom, oom_kills
from adam.watchdog.policy_words import Failures, Memory, Signal, Stage
from adam.watchdog.status_file import Remembered, StatusFile, recall
from adam.watchdog.watched import Watched


def write(file: StatusFile, remembered: Remembered, now: float, state: RunState = RunState.TRAINING) -> None:
    file.write(state, "", 1, remembered, now, notes=())


def test_memory_outlives_the_watchdog(paths):
    memory = Memory(
        stage=Stage.RUNNING,
        plan=Plan(program="trainer", attempt=3, token=9),
        failures=Failures(2, "x", 1, True, FailureClass.CODE, "text"),
        best=50,
    )
    remembered = Remembered(policy=memory, saves=4)
    write(StatusFile(paths), remembered, 10.0)
    known = recall(paths, 77.0)
    assert known.saves == 4 and known.policy.listening.tick == 77.0
    # Of what the keeper was asked for nothing is certain any more.
    assert known.policy.durable == -1
    assert msgspec.structs.replace(known.policy, listening=memory.listening, durable=memory.durable) == memory


@pytest.mark.parametrize("text", ["", "{", '{"schema":1}', '{"schema":1,"state":"training","reason":"","since":1}'])
def test_a_status_that_can_not_be_read_is_no_memory(paths, text):
    paths.status.write_text(text)
    assert recall(paths, 1.0) == Remembered()


def test_status_is_written_when_something_changed_or_it_is_old(paths):
    file = StatusFile(paths)
    write(file, Remembered(), 10.0)
    inode = paths.status.stat().st_ino
    write(file, Remembered(), 11.0)
    assert paths.status.stat().st_ino == inode
    write(file, Remembered(), 11.1, RunState.PAUSED)
    status = schema.load(paths.status, Status)
    assert status is not None and status.state == RunState.PAUSED
    write(file, Remembered(), 13.2, RunState.PAUSED)
    later = schema.load(paths.status, Status)
    assert later is not None and later.stamp.boottime > status.stamp.boottime and later.since == status.since


def test_a_disk_that_does_not_answer_holds_no_loop_up(paths, monkeypatch):
    """A state is there for the next watchdog at once, and durable as soon as the disk answers; that a trainer saves is no new state."""
    synced, answers, real = [], threading.Event(), os.fsync

    def stuck(fd: int) -> None:
        assert answers.wait(20)
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        real(fd)

    monkeypatch.setattr(os, "fsync", stuck)
    file = StatusFile(paths)
    for number, state in enumerate((RunState.TRAINING, RunState.PAUSED)):
        write(file, Remembered(), 10.0 + number, state)
        status = schema.load(paths.status, Status)
        assert status is not None and status.state == state and not synced
    file.settle(0.01)
    assert not synced
    answers.set()
    file.settle(20)
    assert str(paths.status) in synced and synced[-1] == str(paths.run), synced
    write(file, Remembered(), 12.0)
    file.settle(20)
    synced.clear()
    idle = [thread for thread in threading.enumerate() if thread.name == "syncer"]
    for thread in idle:
        thread.join(20)
    assert not any(thread.is_alive() for thread in idle), "there is nothing to do"
    file.write(RunState.TRAINING, "saving", 1, Remembered(), 12.5, notes=())
    assert schema.load(paths.status, Status).reason == "saving"
    file.settle(20)
    assert not synced


def test_a_status_that_can_not_be_made_durable_is_a_trouble(paths, monkeypatch):
    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as failing:
        failing.setattr(os, "fsync", broken)
        file = StatusFile(paths)
        write(file, Remembered(), 10.0)
        file.settle(20)
        assert "Input/output error" in file.trouble
    write(file, Remembered(), 12.0)  # the same state: it is tried again
    file.settle(20)
    assert not file.trouble


def test_events_wait_for_the_disk(paths, monkeypatch):
    journal = Journal(paths.events, logger_to(sys.stderr))
    real = os.write

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    for number in range(1200):
        journal.tell("crashed", f"number {number}", failure="host", nothing=None)
    assert "No space left" in journal.trouble
    monkeypatch.setattr(os, "write", real)
    journal.flush()
    lines = paths.events.read_text().splitlines()
    assert len(lines) == 1000 and "number 1199" in lines[-1] and not journal.trouble and "nothing" not in lines[-1]


def test_a_backend_that_failed_is_told_once_and_when_it_is_mended():
    fine, failed = BackendReport(attempt=1, name="native"), ("native: the gradient of B is 0.3 off",)
    assert backend_news("", None) == backend_news("", fine) == ("", "", "")
    told, kind, text = backend_news("", BackendReport(attempt=2, name="torch", failed=failed))
    assert kind == "backend_failed" and text.startswith("torch computes") and failed[0] in text
    assert backend_news(told, BackendReport(attempt=3, name="torch", failed=failed)) == (told, "", "")
    assert backend_news(told, None) == (told, "", "")
    told, kind, text = backend_news(told, BackendReport(attempt=4, name="native"))
    assert (told, kind) == ("", "backend") and text.startswith("native computes")


def numerics(attempt: int, step: int, **parts: str) -> Numerics:
    return Numerics(attempt=attempt, step=step, fingerprint=str(sorted(parts.items())), parts=parts)


def test_a_break_in_numerics_is_told_once():
    memory, found = hear_numerics(NumericsMemory(), numerics(1, 0, threads="2", torch="2.13"))
    assert not found
    memory, found = hear_numerics(memory, numerics(2, 50, threads="2", torch="2.13"))
    assert not found and memory.last is not None and memory.last.attempt == 2
    memory, found = hear_numerics(memory, numerics(3, 1200, threads="4", torch="2.13"))
    assert found == "step 1200: threads 2 -> 4"
    memory, found = hear_numerics(memory, numerics(3, 1200, threads="4", torch="2.13"))
    assert not found and memory.breaks == ("step 1200: threads 2 -> 4",)


def test_oom_kills_of_a_cgroup(tmp_path):
    (tmp_path / "membership").write_text("1:memory:/old\n0::/adam/run\n")
    events = tmp_path / "cgroup" / "adam" / "run"
    events.mkdir(parents=True)
    assert oom_kills(tmp_path / "membership", tmp_path / "cgroup") is None
    (events / "memory.events").write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert oom_kills(tmp_path / "membership", tmp_path / "cgroup") == 2
    (tmp_path / "membership").write_text("1:memory:/old\n")
    assert oom_kills(tmp_path / "membership", tmp_path / "cgroup") is None


def test_the_kernel_log_says_who_was_killed_for_memory(tmp_path):
    log = tmp_path / "kmsg"
    log.write_text("6,1,2,-;Out of memory: Killed process 4711 (python) total-vm:1kB\n")
    assert kernel_says_oom({4711}, log) and not kernel_says_oom({471, 11}, log)
    assert kernel_says_oom({12, 4711}, log)
    assert not kernel_says_oom({4711}, tmp_path / "none")


def test_a_log_that_can_not_be_opened(tmp_path):
    (tmp_path / "logs").write_text("a file where the folder should be")
    log = ChildLog(tmp_path / "logs" / "trainer.log")
    assert "can't be written" in log.tail()[0]
    os.close(log.fd)


def test_a_file_is_read_again_when_it_was_replaced(tmp_path: Path):
    path, count = tmp_path / "file", []
    watched = Watched(lambda: count.append(1) or len(count), path)
    assert watched.get() == watched.get() == 1
    path.write_text("x")
    assert watched.get() == watched.get() == 2
    path.unlink()
    assert watched.get() == 3


def test_a_signal_reaches_the_very_process_or_nobody():
    send_signal(Signal(os.getpid(), (start_ticks(os.getpid()) or 0) + 1, 9))
    send_signal(Signal(2**22 - 1, 1, 9, group=True))
