"""The bundle of a hang: what is in it, that it is bounded, and that nothing waits for it."""

import os
import signal
import subprocess
import sys

import pytest

from adam.contract.process import start_ticks, state_letter
from adam.contract.states import RunState
from adam.watchdog import bundle
from adam.watchdog.bundler import LONGEST_S, Bundler
from adam.watchdog.policy_words import Collect


@pytest.fixture
def sleeper(await_):
    process = subprocess.Popen(
        [sys.executable, "-c", "print(1, flush=True); import time; time.sleep(600)"], stdout=subprocess.PIPE
    )
    process.stdout.readline()
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_hang_leaves_a_bundle(box):
    box.configure("70:hang@1")
    box.up()
    box.await_state(RunState.FINISHED)
    box.check_losses(200)
    hung = box.events("hung")[0]["facts"]
    assert hung["bundle"] == "logs/hang-1-70"
    folder = box.paths.root / hung["bundle"]
    assert "misbehave" in (folder / "stacks.txt").read_text()
    assert "wchan" in (folder / f"proc-{hung['pid']}.txt").read_text()
    assert '"hung"' in (folder / "events.jsonl").read_text()
    assert (folder / "gpus.json").read_text() == '{"sensors":"none"}'
    assert {"trainer.log", "watchdog.log", "py-spy.txt"} <= {path.name for path in folder.iterdir()}


def test_a_stopped_process_is_said_to_be_stopped(sleeper, tmp_path, await_):
    sleeper.send_signal(signal.SIGSTOP)
    await_(lambda: state_letter(sleeper.pid) == "T", 5)
    assert "is stopped (state T)" in bundle.stacks_text(tmp_path / "stacks.log", 0, sleeper.pid)


def test_a_process_without_a_handler_is_said_to_be_silent(sleeper, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "STACKS_S", 0.1)
    assert "has written no stacks" in bundle.stacks_text(tmp_path / "stacks.log", 0, sleeper.pid)
    (tmp_path / "stacks.log").write_text("old")
    assert "has written no stacks" in bundle.stacks_text(tmp_path / "stacks.log", 3, sleeper.pid)


def test_a_process_that_is_gone():
    assert bundle.proc_text(2**22 + 1) == f"process {2**22 + 1} is gone\n"


def test_the_newest_are_kept(tmp_path):
    for number in range(13):
        (tmp_path / f"hang-1-{number}").mkdir()
        os.utime(tmp_path / f"hang-1-{number}", (number, number))
    bundle.prune(tmp_path, 10)
    assert {path.name for path in tmp_path.iterdir()} == {f"hang-1-{number}" for number in range(3, 13)}


def test_a_bundle_that_takes_too_long_is_killed_and_nothing_waits(paths, await_, sleeper):
    bundler = Bundler(paths, 2)
    bundler.collect(Collect("hang-1-1", sleeper.pid, 1), b"{}", 100.0)
    child = bundler._process.pid
    os.kill(child, signal.SIGSTOP)  # as on a /proc that does not answer
    bundler.attend(100.0 + LONGEST_S)
    assert bundler.busy
    bundler.collect(Collect("hang-1-2", sleeper.pid, 1), b"{}", 101.0)  # one at a time
    assert bundler._process.pid == child
    bundler.attend(101.0 + LONGEST_S)
    await_(lambda: bundler.attend(200.0) or not bundler.busy, 5)
    assert start_ticks(child) is None and not (paths.logs / "hang-1-2").exists()
