"""Killed at any moment, a run gives bit for bit the losses of one that was left alone."""

import itertools
import os
import random
import signal

import pytest
from real_run import RealRun, wait_for

from adam.contract.process import state_letter

STEPS = 200


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> RealRun:
    run = RealRun(tmp_path_factory.mktemp("undisturbed") / "run", steps=STEPS)
    try:
        done = run.adamctl("up", "--wait", timeout=300)
        assert "finished" in done.stdout
        assert run.processes() == []
    finally:
        run.end()
    return run


def check_same(run: RealRun, undisturbed: RealRun) -> None:
    assert run.wait_final() == "finished", run.logs()
    assert run.losses() == undisturbed.losses()
    assert [step for step, _ in run.losses()] == list(range(1, STEPS + 1))
    check_each_sample_once(run)
    assert run.processes() == []


def check_each_sample_once(run: RealRun) -> None:
    """The rows that count cover the data positions without a gap and without an overlap."""
    ranges = [(int(row["first_sample"]), int(row["end_sample"])) for _, row in sorted(run.counting_rows().items())]
    assert ranges[0][0] == 0
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ranges))


def test_the_undisturbed_run_learns(undisturbed: RealRun) -> None:
    status = undisturbed.status()
    assert (status["state"], status["step"], status["restarts"]) == ("finished", STEPS, 0)
    losses = [float(loss) for _, loss in undisturbed.losses()]
    assert sum(losses[-10:]) < sum(losses[:10]) * 0.9
    assert status["checkpoint"]["verified"]
    assert status["checkpoint"]["step"] == STEPS
    undisturbed.adamctl("checkpoints", "verify", "--all")


def kill(run: RealRun, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    assert pid, run.logs()
    os.kill(pid, number)


def test_five_kills_of_the_trainer_and_one_of_the_watchdog_change_no_bit(new_run, undisturbed: RealRun) -> None:
    run = new_run(steps=STEPS)
    run.adamctl("up")
    moments = random.Random(7)
    killed: set[int] = set()
    for number in range(5):
        target = 10 + number * 35 + moments.randrange(30)
        pid = wait_for(
            f"step {target}",
            lambda t=target: run.step() >= t and (run.trainer_pid() not in killed) and run.trainer_pid(),
        )
        kill(run, pid)
        killed.add(pid)
        if number == 2:
            trainer = wait_for(
                "the next trainer",
                lambda: run.trainer_pid() not in killed and run.trainer_pid(),
            )
            watchdog = run.pid_of("adam.watchdog")
            kill(run, watchdog)
            wait_for("another watchdog", lambda w=watchdog: run.pid_of("adam.watchdog") not in (0, w))
            assert run.trainer_pid() == trainer, "the new watchdog disturbed a living trainer"
    check_same(run, undisturbed)
    assert run.status()["restarts"] >= 5
    assert len(run.events("crashed")) >= 5


def test_supervisord_killed_and_up_again(new_run, undisturbed: RealRun) -> None:
    run = new_run(steps=STEPS)
    run.adamctl("up")
    wait_for("some steps", lambda: run.step() >= 50)
    kill(run, int(run.paths.supervisor_pid.read_text()))
    wait_for("nobody outlives supervisord", lambda: not run.processes(), 5)
    assert run.status()["state"] == "stopped"
    run.adamctl("up")
    check_same(run, undisturbed)


def test_a_stopped_trainer_is_a_hang_and_is_replaced(new_run, undisturbed: RealRun) -> None:
    run = new_run(steps=STEPS)
    run.adamctl("up")
    wait_for("some steps", lambda: run.step() >= 50)
    pid = run.trainer_pid()
    kill(run, pid, signal.SIGSTOP)
    hung = wait_for("the hang is seen", lambda: run.events("hung"), 15)
    assert hung[0]["facts"]["process_state"] == "T"
    wait_for("the hung trainer is gone", lambda: state_letter(pid) in (None, "Z"), 15)
    check_same(run, undisturbed)


def test_down_saves_and_up_goes_on(new_run, undisturbed: RealRun) -> None:
    run = new_run(steps=STEPS)
    run.adamctl("up")
    wait_for("some steps", lambda: run.step() >= 65)
    run.adamctl("down")
    assert run.processes() == []
    status = run.status()
    assert status["state"] == "stopped"
    assert status["checkpoint"]["step"] == status["step"] == run.step()  # the newest row
    run.adamctl("up")
    check_same(run, undisturbed)


def test_pause_resume_and_save(new_run, undisturbed: RealRun) -> None:
    run = new_run(steps=STEPS)
    run.adamctl("up")
    wait_for("some steps", lambda: run.step() >= 30)
    run.adamctl("save")
    saved = run.status()["checkpoint"]["step"]
    assert saved >= 30
    run.adamctl("pause")
    wait_for("paused", lambda: run.state() == "paused")
    standing = run.step()
    # Longer than the deadline for a hang (3 s): a pause is not one.
    wait_for("the pulse of a paused trainer moves on", lambda: run.status()["trainer"]["pulse_age_s"] < 2)
    pid = run.trainer_pid()
    with pytest.raises(AssertionError, match="not within"):
        wait_for("a step while paused", lambda: run.step() > standing + 1, 5)
    run.adamctl("save")
    assert run.status()["checkpoint"]["step"] == run.step()
    assert run.state() == "paused"
    assert len(run.events("paused")) == 1
    run.adamctl("resume")
    wait_for("training goes on", lambda: run.step() > standing + 5)
    assert run.trainer_pid() == pid
    assert run.events("hung") == []
    check_same(run, undisturbed)


def test_a_finished_run_is_extended_and_forked(new_run, undisturbed: RealRun, tmp_path) -> None:
    run = new_run(steps=60)
    run.adamctl("up", "--wait")
    text = run.paths.config.read_text()
    run.paths.config.write_text(text.replace("steps = 60\n", "steps = 90\n"))
    assert "finished" in run.adamctl("up", "--wait").stdout
    assert [step for step, _ in run.losses()] == list(range(1, 91))
    check_each_sample_once(run)
    newest = run.status()["checkpoint"]["path"]
    fork = RealRun(tmp_path / "fork-side")
    fork.paths.config.unlink()
    try:
        run.adamctl("fork", "--from", newest, str(tmp_path / "fork"))
        child = RealRun.__new__(RealRun)
        child.paths = type(run.paths)(tmp_path / "fork")
        text = child.paths.config.read_text()
        child.paths.config.write_text(text.replace("steps = 90\n", "steps = 110\n"))
        child.adamctl("up", "--wait")
        assert [step for step, _ in child.losses()] == list(range(91, 111))
    finally:
        child.end()
