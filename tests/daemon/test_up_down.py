"""`up` and `down` with a real supervisord and a stand-in for the watchdog."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from adam.contract import schema
from adam.contract.config_file import load_config
from adam.contract.paths import RunPaths
from adam.contract.records import Desired, Status
from adam.contract.states import Exit
from adam.daemon.status import look


@pytest.fixture
def start(world):
    """Brings a run up, in a mode of the stand-in."""

    def begin(name: str = "run", mode: str = "", *options: str, expect: int = 0) -> tuple[RunPaths, str]:
        root = world.root / name
        # A frozen watchdog is to be seen by its silence, not by the time that it takes.
        world.write_toml(root / "adam.toml", stop_seconds=100 if mode == "frozen" else 2)
        (root / "mode").write_text(mode)
        done = world.adamctl("up", "--run", root, *options, fake=True, expect=expect)
        return RunPaths(root), done.stdout + done.stderr

    return begin


def desired(paths: RunPaths) -> Desired:
    found = schema.load(paths.desired, Desired)
    assert found is not None
    return found


def supervisor_pid(paths: RunPaths) -> int:
    return int(paths.supervisor_pid.read_text())


def test_up_starts_and_down_leaves_nobody(world, start) -> None:
    paths, said = start()
    assert "is training" in said
    assert desired(paths).running
    assert len(world.processes(paths)) == 2
    assert paths.supervisor_socket.stat().st_mode & 0o077 == 0
    line = world.adamctl("up", "--run", "run", expect=Exit.BUSY).stderr
    assert "already running" in line
    assert "no process of it is left" in world.adamctl("down", "--run", "run").stdout
    assert world.processes(paths) == []
    assert not desired(paths).running
    assert "is not running" in world.adamctl("down", "--run", "run").stdout


def test_without_a_configuration_it_is_the_demo(world) -> None:
    world.adamctl("up", fake=True)
    paths = RunPaths(world.root / "runs" / "demo")
    assert load_config(paths.config).trainer.steps == load_config(paths.lock).trainer.steps
    assert "# " in paths.config.read_text()
    world.adamctl("down")


@pytest.mark.parametrize("name", ["with blank & 100% 'odd' \"name\" ;x", "long" * 40])
def test_odd_and_long_paths(world, start, name: str) -> None:
    paths, _ = start(name)
    world.adamctl("down", "--run", paths.root)
    assert world.processes(paths) == []
    if paths.supervisor_socket.parent != paths.run:
        paths.supervisor_socket.parent.rmdir()


def test_a_run_is_one_run_by_whatever_link_it_is_named(world, start) -> None:
    start()
    (world.root / "link").symlink_to("run")
    world.adamctl("up", "--run", "link", expect=Exit.BUSY)
    world.adamctl("down", "--run", "link")


@pytest.mark.parametrize("mode", ["frozen", "stubborn"])
def test_down_ends_a_run_whose_watchdog_does_nothing(world, start, mode: str) -> None:
    paths, _ = start("run", mode)
    if mode == "stubborn":
        # As a supervisord that has died and left somebody behind who ignores SIGTERM.
        os.kill(supervisor_pid(paths), signal.SIGSTOP)
    done = world.adamctl("down", "--run", "run", fake=True)
    assert "ending processes" in done.stdout
    assert world.processes(paths) == []


def test_down_now_waits_for_nobody(world, start) -> None:
    paths, _ = start("run", "stubborn")
    began = time.monotonic()
    world.adamctl("down", "--now", "--run", "run")
    assert time.monotonic() - began < 5
    assert world.processes(paths) == []


def test_supervisord_killed_leaves_no_twin_behind(world, start) -> None:
    paths, _ = start("run", "deaf")
    os.kill(supervisor_pid(paths), signal.SIGKILL)
    # The stand-in does not die with its parent, as a process of a dead supervisord might not.
    line = world.adamctl("up", "--run", "run", expect=Exit.BUSY).stderr
    assert "still alive" in line
    assert "ending processes" in world.adamctl("down", "--run", "run", fake=True).stdout
    assert world.processes(paths) == []
    start()
    assert len(world.processes(paths)) == 2
    world.adamctl("down", "--run", "run")


def test_a_run_that_lost_everybody_is_stopped_and_can_be_started(world, start) -> None:
    paths, _ = start()
    for pid in world.processes(paths):
        os.kill(pid, signal.SIGKILL)
    world.wait_for("nobody", lambda: not world.processes(paths))
    report = world.adamctl("status", "--run", "run").stdout
    assert "stopped" in report and "goes on from the beginning" in report
    assert "is not running" in world.adamctl("down", "--run", "run").stdout
    start()
    world.adamctl("down", "--run", "run")


def test_a_pause_outlives_down_and_up(world, start) -> None:
    paths, _ = start()
    world.adamctl("pause", "--run", "run")
    world.adamctl("down", "--run", "run")
    assert desired(paths).pauses == ("human",)
    _, said = start()
    assert "paused by human" in said
    world.adamctl("resume", "--run", "run")
    assert desired(paths).pauses == ()
    world.adamctl("save", "--run", "run")
    assert desired(paths).saves == 1
    world.adamctl("down", "--run", "run")


def test_wishes_need_a_running_run(world) -> None:
    world.run()
    for command in ("pause", "save"):
        assert "not running" in world.adamctl(command, "--run", "run", expect=Exit.NOT_RUNNING).stderr


def test_wait_follows_to_the_end(world, start) -> None:
    paths, said = start("run", "finished", "--wait")
    assert "finished: fake" in said and "checkpoints: " in said
    assert world.processes(paths) == []


def test_wait_says_when_everybody_is_gone(world, start) -> None:
    paths = RunPaths(world.root / "run")

    def kill_all() -> None:
        world.wait_for("`up` at work", paths.beat.exists)
        with paths.up_lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until it has started everything
        while left := world.processes(paths):
            for pid in left:
                os.kill(pid, signal.SIGKILL)

    with ThreadPoolExecutor() as pool:
        killed = pool.submit(kill_all)
        _, said = start("run", "", "--wait", expect=Exit.FAILED)
    killed.result()
    assert "no process of this run is alive" in said


def test_a_watchdog_that_never_speaks_is_ended_and_told_of(world, monkeypatch) -> None:
    root = world.root / "run"
    world.write_toml(root / "adam.toml")
    (root / "mode").write_text("mute")
    script = world.root / "short.py"
    script.write_text(
        "import sys\nfrom adam.daemon import supervisord, up\n"
        f"supervisord.WATCHDOG_COMMAND = (sys.executable, '-P', {str(Path(__file__).parent / 'fake_watchdog.py')!r})\n"
        "up.START_S = 2.0\nfrom adam.daemon.cli import main\nsys.exit(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", str(script), "up", "--run", str(root)], capture_output=True, text=True, check=False
    )
    assert done.returncode == Exit.TIMEOUT
    assert "did not start" in done.stderr
    assert world.processes(RunPaths(root)) == []


def test_a_finished_run_has_nothing_more_to_do(world) -> None:
    paths = world.run()
    paths.config.write_text(paths.lock.read_text())
    world.checkpoint(paths, 100)
    world.status(paths, state="finished", reason="100 steps trained", watchdog_pid=999_999_999)
    assert "the run is finished" in world.adamctl("up", "--run", "run").stdout
    assert "finished: 100 steps" in world.adamctl("up", "--wait", "--run", "run").stdout
    assert not paths.supervisor_conf.exists()


def test_a_finished_run_with_a_bad_last_checkpoint_is_the_policys_business(world, start) -> None:
    paths = world.run()
    paths.config.write_text(paths.lock.read_text())
    checkpoint = world.checkpoint(paths, 100)
    world.status(paths, state="finished", watchdog_pid=999_999_999)
    (checkpoint / "rank-00000.safetensors").write_bytes(b"weighty")
    world.adamctl("up", "--run", "run", fake=True)
    assert len(world.processes(paths)) == 2
    world.adamctl("down", "--run", "run")


def test_prepare_writes_everything_and_starts_nothing(world) -> None:
    paths = RunPaths(world.root / "run")
    world.write_toml(paths.config)
    world.adamctl("up", "--prepare", "--no-watchdog", "--run", "run")
    assert load_config(paths.lock).trainer.decay_steps > 0
    assert "[program:trainer]" in paths.supervisor_conf.read_text()
    assert "[program:watchdog]" not in paths.supervisor_conf.read_text()
    assert not paths.desired.exists()
    assert world.processes(paths) == []


def test_prepare_leaves_a_running_run_alone(world, start) -> None:
    paths, _ = start()
    before = paths.supervisor_conf.read_bytes(), paths.lock.stat().st_mtime_ns
    world.adamctl("up", "--prepare", "--no-watchdog", "--run", "run")
    assert (paths.supervisor_conf.read_bytes(), paths.lock.stat().st_mtime_ns) == before
    world.adamctl("down", "--run", "run")


def test_in_the_foreground_it_is_supervisord_itself(world) -> None:
    paths = RunPaths(world.root / "run")
    world.write_toml(paths.config)
    command = [
        sys.executable,
        "-P",
        "-m",
        "adam.daemon",
        "up",
        "--foreground",
        "--no-watchdog",
        "--run",
        str(paths.root),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        world.wait_for("supervisord", lambda: paths.supervisor_pid.exists() and supervisor_pid(paths) == process.pid)
        assert world.processes(paths) == [process.pid]
    finally:
        process.terminate()
        assert process.wait(20) == 0


def test_the_status_sees_through_files(world, start) -> None:
    paths, _ = start()
    assert look(paths).watchdog_alive
    assert schema.load(paths.status, Status) is not None
    world.adamctl("down", "--run", "run")
    assert not look(paths).anybody_alive
