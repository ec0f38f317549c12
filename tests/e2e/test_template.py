"""After a kill the next trainer is a copy of a template that has torch already: sooner, the same numbers, and never a risk."""

import os
import signal
from collections import defaultdict
from pathlib import Path

import pytest
from real_run import RealRun, wait_for

from adam.contract.process import state_letter

pytestmark = pytest.mark.timeout(240)


def kill_trainer(run: RealRun) -> int:
    """End the trainer; its pid, when the next one has logged a step."""
    pid, attempt = run.trainer_pid(), run.status()["attempt"]
    os.kill(pid, signal.SIGKILL)
    wait_for("the next attempt's first step", lambda: run.rows() and int(run.rows()[-1]["attempt"]) > attempt)
    return pid


def test_the_next_trainer_is_a_copy_with_the_same_losses(new_run) -> None:
    run = new_run(steps=100_000)
    run.adamctl("up")
    template = wait_for("a template", run.template_pid)
    launcher = run.launcher_pid()
    kill_trainer(run)
    assert run.launcher_pid() == launcher and run.template_pid() == template, (
        "the launcher stays, and so does its template"
    )
    assert Path(f"/proc/{run.trainer_pid()}/cmdline").read_bytes() == Path(f"/proc/{template}/cmdline").read_bytes()
    # A copy that dies young is followed by a process that shares nothing with it.
    kill_trainer(run)
    assert run.launcher_pid() != launcher and state_letter(template) in (None, "Z")
    assert b"--template" not in Path(f"/proc/{run.trainer_pid()}/cmdline").read_bytes()
    # A template that dies is no loss.
    os.kill(wait_for("another template", run.template_pid), signal.SIGKILL)
    kill_trainer(run)
    run.adamctl("down")
    assert run.processes() == [] and run.status()["state"] == "stopped"
    losses = defaultdict(set)
    for row in run.rows():
        losses[row["step"]].add(row["loss"])
    again = len(run.rows()) - len(losses)
    assert again and all(len(found) == 1 for found in losses.values()), (
        "a copy computes what was computed before, bit for bit"
    )
    assert run.status()["restarts"] == 3
