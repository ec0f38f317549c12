"""`up --wait`: what is shown, and how it ends."""

import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from adam.contract.paths import RunPaths
from adam.contract.states import Exit
from adam.daemon.bars import Bars
from adam.daemon.follow import LINE_S, Lines, follow
from adam.daemon.report import describe
from adam.daemon.status import look


@pytest.fixture
def reports(world) -> list[dict[str, Any]]:
    """A run as it forges, trains and pauses."""
    report = describe(look(world.run()))
    training = {
        **report,
        "state": "training",
        "reason": "",
        "step": 5,
        "loss": 4.5,
        "tokens_per_second": 1000.0,
        "eta_s": 90.0,
    }
    return [
        {**report, "state": "forging", "reason": "no data", "progress": {"phase": "reading", "done": 5, "total": 10}},
        {**report, "state": "forging", "reason": "no data", "progress": {"phase": "learning", "done": 0, "total": 0}},
        training,
        {**training, "step": 6, "val_bits_per_byte": 2.5},
        {
            **training,
            "step": 6,
            "state": "paused",
            "reason": "paused by human",
            "tokens_per_second": None,
            "eta_s": None,
        },
    ]


def test_lines_come_with_changes_and_now_and_then(reports, capsys, monkeypatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    lines = Lines()
    for report in reports:
        lines.show(report)
    out = capsys.readouterr().out.splitlines()
    assert [line.partition(" ")[0] for line in out] == ["forging:", "training", "paused:"]
    assert "reading 50 %" in out[0]
    assert "step 5 of 100" in out[1] and "1,000 tokens/s, 1 min left" in out[1]
    clock[0] += LINE_S
    lines.show(reports[-1])
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_bars_show_the_phases_and_the_training(reports, capsys) -> None:
    with Bars() as bars:
        for report in reports:
            bars.show(report)
    out = capsys.readouterr().out
    for words in ("forging: no data", "reading", "learning", "training", "paused: paused by human"):
        assert words in out, words


@pytest.mark.parametrize(("state", "code"), [("finished", Exit.OK), ("failed", Exit.FAILED), ("stopped", Exit.STOPPED)])
def test_the_exit_code_says_how_it_ended(world, capsys, state: str, code: Exit) -> None:
    paths = world.run()
    world.status(paths, state=state, reason="because", watchdog_pid=999_999_999)
    assert follow(paths) == code
    out, err = capsys.readouterr()
    assert f"{state}: because" in (out if code == Exit.OK else err)
    assert "checkpoints: " in out and "metrics.csv" in out


def test_ctrl_c_detaches_and_the_run_goes_on(world) -> None:
    paths = RunPaths(world.root / "run")
    world.write_toml(paths.config)
    command = [sys.executable, "-P", *world.program(fake=True), "up", "--wait", "--run", str(paths.root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("training"):
            break
    os.kill(process.pid, signal.SIGINT)
    assert "adamctl down" in process.communicate(timeout=20)[0]
    assert process.returncode == Exit.INTERRUPTED
    assert len(world.processes(paths)) == 2
    world.adamctl("down", "--run", "run")
