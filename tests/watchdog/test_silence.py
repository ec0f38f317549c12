"""Helpers that say nothing any more: stopped, stuck in the kernel, or done and not ending. Real processes; only the time is the test's."""

import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_checkpoint import make_uploading_run, uploading_config, write_checkpoint

from adam.contract.clock import stamp
from adam.contract.config import Alerts, Config, Upload
from adam.contract.config_file import load_config
from adam.contract.process import state_letter
from adam.contract.records import CheckpointSeen
from adam.contract.states import RunState
from adam.watchdog import alert_send, uploader, uploader_client
from adam.watchdog.alert_send import Alert, by_command
from adam.watchdog.child import BURY_S, LineChild
from adam.watchdog.followers import SILENT_S, followers_of
from adam.watchdog.frozen import FROZEN_S
from adam.watchdog.journal import Journal
from adam.watchdog.log import logger_to
from adam.watchdog.upload_words import Outcome, Task
from adam.watchdog.uploader import ENDING_S, Job
from adam.watchdog.uploader_client import STOPPED_S, UploaderClient

TRACER = """
import ctypes, sys, time
libc = ctypes.CDLL(None, use_errno=True)
seize = libc.ptrace(0x4206, int(sys.argv[1]), None, None)
print(ctypes.get_errno() if seize else 0, flush=True)
time.sleep(100)
"""


def test_a_stopped_uploader_is_replaced_and_the_next_one_uploads(tmp_path, await_) -> None:
    paths = make_uploading_run(tmp_path / "run", target=f"file://{tmp_path}/far")
    paths.logs.mkdir(exist_ok=True)
    write_checkpoint(paths, 40)
    journal = Journal(paths.events, logger_to(sys.stderr))
    client = UploaderClient(paths, load_config(paths.lock).upload, selectors.DefaultSelector(), journal, 2)
    now, newest = 100.0, CheckpointSeen("step-00000040-a01", 40, True, stamp())

    def attend(seconds: float = 0.0) -> None:
        nonlocal now
        now += seconds
        client.attend(newest, True, now, known=True)

    attend()
    first = client.pid
    os.kill(first, signal.SIGSTOP)
    await_(lambda: state_letter(first) == "T")
    try:
        for _ in range(int(STOPPED_S)):
            attend(1.0)
        assert client.pid == first and client.pending
        attend(1.0)
        assert client.pid != first and not Path(f"/proc/{first}").exists()
        assert '"uploader_restarted"' in paths.events.read_text()
        attend(1.0)
        await_(lambda: attend() or not client.pending, 60)
        assert client.seen.weights == newest.name
    finally:
        client.end(now)


def test_an_uploader_that_lives_and_is_silent_is_replaced_much_later(tmp_path, monkeypatch) -> None:
    paths = make_uploading_run(tmp_path / "run", target=f"file://{tmp_path}/far")
    script = tmp_path / "mute"
    script.write_text("#!/bin/sh\nexec sleep 1000\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    journal = Journal(paths.events, logger_to(sys.stderr))
    client = UploaderClient(
        paths, uploading_config(target="file:///far").upload, selectors.DefaultSelector(), journal, 2
    )
    client.attend(None, False, 100.0, known=True)
    first, now = client.pid, 100.0
    while client.pid == first:
        now += 1.0
        client.attend(None, False, now, known=True)
    assert uploader_client.SILENT_S < now - 100.0 < uploader_client.SILENT_S + 3
    client.end(now)


def stand_in(tmp_path: Path, monkeypatch, text: str) -> None:
    script = tmp_path / "stand_in"
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(uploader, "ENDING_S", 0.5)


@pytest.mark.parametrize("end", ["exec >&-; exec sleep 1000", "trap '' TERM; kill -STOP $$"])
def test_a_job_that_has_answered_and_does_not_end_is_ended(paths, tmp_path, monkeypatch, end) -> None:
    stand_in(tmp_path, monkeypatch, f"echo '{{\"size\":5}}'; {end}")
    job = Job(paths, Task("step-00000040-a01", True, False), 60.0)
    with selectors.DefaultSelector() as selector:
        selector.register(job.out, selectors.EVENT_READ)
        assert selector.select(20)
    began = time.monotonic()
    assert job.outcome() == Outcome(size=5) and time.monotonic() - began < ENDING_S
    assert not Path(f"/proc/{job._process.pid}").exists()


def test_an_alerter_is_a_follower_like_the_others(paths) -> None:
    config = Config(alerts=Alerts(command="true"))
    found = followers_of(paths, config, {}, selectors.DefaultSelector(), 2)._all[0]
    assert found._silent_s == SILENT_S > alert_send.COMMAND_S + alert_send.WEBHOOK_S
    now = 100.0
    found.attend(now)
    first = found.pid
    os.kill(first, signal.SIGSTOP)
    while found.pid == first and not found.note:
        now += 1.0
        found.attend(now)
        assert now < 100 + 3 * SILENT_S
    assert "did not answer" in found.note
    found.finish(now, 0.0)


def test_a_command_whose_child_has_left_it_holds_no_alerter_up(monkeypatch) -> None:
    monkeypatch.setattr(alert_send, "COMMAND_S", 2.0)  # the child has left it by then
    monkeypatch.setattr(alert_send, "KILLED_S", 0.2)
    began = time.monotonic()
    assert "did not end within" in by_command("setsid sleep 30 & sleep 30")(Alert("x", "/r", "hung", "t", {}))
    assert time.monotonic() - began < 15


def test_one_that_does_not_die_is_left_alone(tmp_path, monkeypatch, await_) -> None:
    """A process that somebody traces is not to be buried by its parent before the tracer lets it go: as one that stands in the kernel."""
    (tmp_path / "sleeper.py").write_text("import time; print(1, flush=True); time.sleep(100)")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with (tmp_path / "log").open("wb") as log:
        child = LineChild(["sleeper"], selectors.DefaultSelector(), float, log.fileno())
        child.start_if_due(1.0)
        await_(lambda: child.lines(1.0))
        first = child.pid
        with subprocess.Popen([sys.executable, "-c", TRACER, str(first)], stdout=subprocess.PIPE) as tracer:
            try:
                if number := int(tracer.stdout.readline()):
                    pytest.skip(f"tracing is not allowed here: {os.strerror(number)}")
                began = time.monotonic()
                child.end(1.0)
                assert BURY_S <= time.monotonic() - began < BURY_S + 5
                assert f"process {first}, state Z" in (tmp_path / "log").read_text()
                assert child.start_if_due(10.0) and child.pid != first
                child.end(10.0)
            finally:
                tracer.kill()
        await_(lambda: child._undead[0].poll() is not None, 5)


@pytest.mark.timeout(150)
def test_a_stopped_uploader_of_a_run_is_replaced(box, await_) -> None:
    box.upload = Upload(target=f"file://{box.paths.root.parent}/far")
    box.configure(step_ms=20)
    box.up()
    box.await_step(30)
    await_(lambda: box.pid_of("adam.watchdog.uploader"), 20)
    stopped = box.pid_of("adam.watchdog.uploader")
    os.kill(stopped, signal.SIGSTOP)
    await_(lambda: box.events("uploader_restarted"), 60)
    await_(lambda: box.pid_of("adam.watchdog.uploader") not in (0, stopped), 30)
    box.await_state(RunState.FINISHED)
    box.check_losses(200)


@pytest.mark.timeout(150)
def test_a_frozen_watchdog_is_replaced_while_no_launcher_lives(box, await_) -> None:
    """Between two attempts, in a back-off: the keeper is there, and looks."""
    box.watchdog |= {"backoff_seconds": 600.0, "backoff_cap_seconds": 600.0}
    box.configure("20:exit=1", step_ms=20)
    box.up()
    box.await_state(RunState.RESTARTING)
    await_(lambda: not box.pid_of("adam.watchdog.launcher"), 30)
    frozen = box.status().watchdog_pid
    os.kill(frozen, signal.SIGSTOP)
    began = time.monotonic()
    await_(lambda: box.status().watchdog_pid != frozen, 100)
    assert time.monotonic() - began > FROZEN_S - 5
    assert not box.pid_of("adam.watchdog.launcher")
