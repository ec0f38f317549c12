"""Logs that somebody rotates under a run, by another name or by cutting them short: training goes on, and nothing is missing elsewhere."""

import os
import signal

import pytest

from adam.contract.states import RunState
from adam.watchdog import bundle
from adam.watchdog.child_log import ChildLog

pytestmark = pytest.mark.timeout(150)


def rename(path) -> None:
    path.rename(path.with_suffix(".log.1"))
    path.touch()


def cut(path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize("rotate", [rename, cut])
def test_training_goes_on_and_no_row_is_missing(box, await_, rotate) -> None:
    box.configure("90:exit=1@1", "120:hang@2", step_ms=20)
    box.up()
    for step in (20, 50):
        box.await_step(step)
        rotated = sorted(box.paths.logs.glob("*.log"))
        assert {"trainer.log", "stacks.log", "watchdog.log", "launcher.log"} <= {path.name for path in rotated}
        for path in rotated:
            rotate(path)
    first = box.status().watchdog_pid
    await_(lambda: box.events("crashed"), 60)
    assert "fake trainer: ends with 1 at step 90" in box.events("crashed")[0]["text"]
    os.kill(first, signal.SIGKILL)
    box.await_state(RunState.FINISHED)
    assert [item["facts"]["detail"] for item in box.events("crashed")][1:] == ["hang"]
    assert "misbehave" in (box.paths.root / box.events("hung")[0]["facts"]["bundle"] / "stacks.txt").read_text()
    box.check_losses(200)


def test_the_last_words_in_a_log_that_was_cut_short_are_found(tmp_path) -> None:
    path = tmp_path / "trainer.log"
    path.write_text("of an earlier attempt\n" * 9)
    log = ChildLog(path)
    os.truncate(path, 0)
    os.write(log.fd, b"last words\n")
    assert log.tail() == ("last words",)
    os.close(log.fd)


def test_stacks_in_a_log_that_was_cut_short_are_found(tmp_path) -> None:
    path = tmp_path / "stacks.log"
    path.write_text("new")
    assert bundle.stacks_text(path, 1000, os.getpid()) == "new"
