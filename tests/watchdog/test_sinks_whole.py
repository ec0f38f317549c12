"""Sinks beside a whole run of real processes: whatever becomes of them, training and the watchdog do not notice."""

import os
import signal
import socket
import sqlite3
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from adam.contract.config import Sinks
from adam.contract.process import processes_with
from adam.contract.states import RunState

pytestmark = pytest.mark.timeout(90)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def rows_of(port: int) -> int:
    """The rows that the endpoint has counted; -1 where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except (urllib.error.URLError, ConnectionError):
        return -1
    return next(int(float(line.split()[1])) for line in text.splitlines() if line.startswith("adam_rows_total "))


def steps_on_the_board(box) -> list[int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(box.paths.tensorboard), size_guidance={"scalars": 0})
    found.Reload()
    return [item.step for item in found.Scalars("training/loss")]


def pid_of(box, sink: str) -> int:
    """Of the sink's process; `module name` tells sinks apart."""
    for pid in processes_with("ADAM_SUPERVISED", str(box.paths.root)):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if b"adam.watchdog.sink" in words and sink.encode() in words:
            return pid
    return 0


def test_killed_and_stopped_sinks_lose_nothing_and_hold_nobody_up(box, await_) -> None:
    port = free_port()
    box.sinks = Sinks(prometheus_port=port, tensorboard=True, trackio="project")
    box.checkpoint["ram"] = "off"  # it goes back to step 80
    box.configure("90:signal=9@1", step_ms=30)
    box.up()
    await_(lambda: rows_of(port) > 0 and box.paths.sink("tensorboard").exists(), 30)
    first = pid_of(box, "tensorboard")
    box.kill(first)
    box.kill(pid_of(box, "prometheus"))
    os.kill(pid_of(box, "trackio"), signal.SIGSTOP)  # it hangs until the end
    await_(lambda: any("it died" in note for note in box.status().notes), 10)
    await_(lambda: pid_of(box, "tensorboard") not in (0, first), 20)
    box.await_state(RunState.FINISHED)
    box.process.wait(30)
    box.check_losses(200)
    assert box.status().restarts == 1 and not box.events("hung")
    assert steps_on_the_board(box) == list(range(1, 201)), "each step once, though some were trained twice"
    again = len(box.rows())
    assert again > 200
    box.sinks = Sinks(trackio="project")
    box.trainer["steps"] = 210
    box.configure(step_ms=5)
    box.up()
    box.await_state(RunState.FINISHED)
    box.process.wait(30)
    with sqlite3.connect(box.paths.root / "trackio" / "project.db") as store:
        (count,) = store.execute("SELECT count(*) FROM metrics").fetchone()
    store.close()
    assert count == len(box.rows()) == again + 10, "what the one that hung had not sent"


def test_a_taken_port_is_a_note_and_no_more(box, await_) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        box.sinks = Sinks(prometheus_port=port)
        box.configure(step_ms=20)
        box.up()
        await_(lambda: any(f"the sink prometheus: port {port}" in note for note in (box.status() or NOBODY).notes), 30)
    await_(lambda: rows_of(port) > 0, 30)
    await_(lambda: not box.status().notes, 10)
    box.await_state(RunState.FINISHED)
    box.check_losses(200)


class NOBODY:
    notes: tuple[str, ...] = ()


def test_a_missing_package_is_a_note_and_no_more(box, tmp_path, monkeypatch, await_) -> None:
    (tmp_path / "none" / "tensorboard").mkdir(parents=True)
    (tmp_path / "none" / "tensorboard" / "__init__.py").write_text(
        "raise ModuleNotFoundError('No', name='tensorboard')"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'none'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    box.sinks = Sinks(tensorboard=True)
    box.configure(step_ms=20)
    box.up()
    said = "the sink tensorboard: the package tensorboard is not installed"
    await_(lambda: any(said in note for note in (box.status() or NOBODY).notes), 30)
    await_(lambda: not pid_of(box, "tensorboard"), 10)
    box.await_state(RunState.FINISHED)
    box.check_losses(200)
    assert box.paths.log("watchdog").read_text().count("not installed") == 1
