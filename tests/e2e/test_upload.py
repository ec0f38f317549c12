"""A real run that uploads, a machine that is lost, and another one that goes on from what was uploaded."""

import os
import signal
from pathlib import Path

import pytest
from fake_hub import REPO, TOKEN, FakeHub
from real_run import CONFIG, RealRun, wait_for

from adam.contract.checkpoints import list_checkpoints
from adam.contract.records import Status
from adam.contract.schema import load

STEPS = 120


def config(upload: str) -> str:
    return CONFIG + f"\n[upload]\n{upload}\n"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> RealRun:
    run = RealRun(tmp_path_factory.mktemp("undisturbed") / "run", steps=STEPS)
    try:
        run.adamctl("up", "--wait", timeout=300)
    finally:
        run.end()
    return run


def told(run: RealRun) -> Status:
    """What the watchdog wrote last."""
    status = load(run.paths.status, Status)
    assert status is not None
    return status


def test_a_run_goes_on_elsewhere_bit_for_bit(new_run, undisturbed: RealRun, tmp_path: Path, monkeypatch) -> None:
    with FakeHub(exists=False) as hub:
        for name, value in hub.environment.items():
            monkeypatch.setenv(name, value)
        run = new_run("lost", steps=STEPS, config=config(f'repo = "{REPO}"'))
        run.adamctl("up")
        wait_for("an upload", lambda: run.events("uploaded"), 120)
        run.end()  # the machine is gone
        other = new_run("other", steps=STEPS)
        other.paths.config.unlink()
        said = other.adamctl("restore", f"hf://{REPO}", str(other.paths.root)).stdout
        first = int(said.split("at step ")[1].split(";")[0])
        assert 0 < first < STEPS, run.logs()
        other.adamctl("up")
        assert other.wait_final() == "finished", other.logs()
        assert other.losses() == undisturbed.losses()[first:]
        assert other.final_state() == undisturbed.final_state()
        # Before its processes ended, the last checkpoint was there whole.
        last = list_checkpoints(other.paths.checkpoints)[-1].name
        assert f"state/{last}/MANIFEST.json" in hub.files, other.logs()
        assert other.status()["upload"]["state"] == last
        assert TOKEN not in other.logs() + run.logs()


def test_a_hub_that_refuses_is_told_once_and_keeps_nobody(new_run, undisturbed: RealRun, monkeypatch) -> None:
    with FakeHub() as hub:
        for name, value in hub.environment.items():
            monkeypatch.setenv(name, value)
        hub.fault("GET", "/api/models/", 403, times=10**6)
        run = new_run(steps=STEPS, config=config(f'repo = "{REPO}"'))
        run.adamctl("up")
        assert run.wait_final() == "finished", run.logs()
        assert [event["facts"]["class"] for event in run.events("upload_failed")] == ["permanent"]
        assert run.losses() == undisturbed.losses() and run.final_state() == undisturbed.final_state()


def test_a_finished_run_waits_for_a_hub_that_is_away_until_people_say_no(new_run, monkeypatch) -> None:
    with FakeHub() as hub:
        for name, value in hub.environment.items():
            monkeypatch.setenv(name, value)
        hub.fault("GET", "/api/models/", "reset", times=10**6)
        run = new_run(steps=40, config=config(f'repo = "{REPO}"'))
        run.adamctl("up")
        wait_for("the end of training", lambda: run.state() == "finished", 120)
        wait_for("the trouble told", lambda: run.events("upload_waiting"), 60)
        assert run.pid_of("adam.watchdog.uploader")
        assert "uploads wait" in " ".join(run.status()["notes"])
        watchdog = told(run).watchdog_pid
        os.kill(watchdog, signal.SIGKILL)  # the next one waits too, though it knows of no checkpoint at first
        wait_for("another watchdog", lambda: told(run).watchdog_pid != watchdog)
        wait_for("a checkpoint that it knows", lambda: told(run).checkpoint)
        assert run.state() == "finished" and run.pid_of("adam.watchdog.uploader")
        run.adamctl("down")
        assert not run.processes()
