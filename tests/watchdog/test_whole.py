"""The whole watchdog with a real supervisord: faults injected into real processes, losses compared with an undisturbed run."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from adam.contract.config import Upload
from adam.contract.process import alive, start_ticks
from adam.contract.states import RunState

pytestmark = pytest.mark.timeout(90)


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    assert pid > 0
    os.kill(pid, number)


def test_trains_to_the_end(box):
    box.configure()
    box.up()
    status = box.await_state(RunState.FINISHED)
    assert status.checkpoint.step == 200 and status.checkpoint.verified
    assert status.sensors == "none" and not box.pid_of(
        "adam.watchdog.probe"
    )  # no NVIDIA driver here: no process either
    assert box.process.wait(10) == 0
    box.check_losses(200)
    assert len(box.names()) == 3  # keep_last


def test_killed_trainer_goes_on_with_the_same_losses(box, await_):
    box.configure(step_ms=15)
    box.up()
    for step in (50, 100, 150):
        box.await_step(step)
        began = time.monotonic()
        kill(box.trainer_pid())
        crashes = step // 50
        await_(lambda crashes=crashes: len(box.events("crashed")) == crashes, 5)
        assert time.monotonic() - began < 1.0
    status = box.await_state(RunState.FINISHED)
    box.check_losses(200)
    assert status.restarts == 3
    assert [item["facts"]["failure"] for item in box.events("crashed")] == ["host"] * 3
    assert {item["facts"]["detail"] for item in box.events("crashed")} == {"SIGKILL"}


def test_stopped_trainer_is_a_hang(box, await_):
    box.configure(step_ms=20)
    box.up()
    box.await_step(30)
    began = time.monotonic()
    kill(box.trainer_pid(), signal.SIGSTOP)
    await_(lambda: box.events("hung"), 10)
    noticed = time.monotonic() - began
    assert 1.5 < noticed < 4.0  # hang_seconds = 2
    hung = box.events("hung")[0]["facts"]
    assert hung["process_state"] == "T" and hung["phase"] == 3 and hung["step"] >= 30
    status = box.await_state(RunState.FINISHED)
    assert status.restarts == 1
    box.check_losses(200)


def test_a_hang_leaves_its_stacks(box):
    box.configure("70:hang@1")
    box.up()
    box.await_state(RunState.FINISHED)
    box.check_losses(200)
    assert "misbehave" in box.paths.log("stacks").read_text()
    assert box.events("crashed")[0]["facts"]["detail"] == "hang"


def test_killed_watchdog_takes_the_trainer_over(box, await_):
    box.configure(step_ms=20)
    box.up()
    box.await_step(40)
    trainer, first = box.trainer_pid(), box.status().watchdog_pid
    ticks = start_ticks(trainer)
    kill(first)
    await_(lambda: box.status().watchdog_pid != first, 10)
    box.await_step(120)
    assert box.trainer_pid() == trainer and start_ticks(trainer) == ticks
    status = box.await_state(RunState.FINISHED)
    assert status.attempt == 1 and status.restarts == 0
    box.check_losses(200)


def test_files_that_can_not_be_read_any_more_end_no_watchdog(box, await_):
    box.configure(step_ms=20)
    box.up()
    box.await_step(30)
    first, paths = box.status().watchdog_pid, box.paths
    files = (paths.tokens_manifest, paths.numerics, paths.staging_report, paths.backend_report, paths.desired)
    before = {path: path.read_bytes() if path.exists() else None for path in files}
    for path in files:
        path.write_bytes(b'{"schema": 1, "\xff')
    await_(lambda: all(any(str(path) in note for note in box.status().notes) for path in files), 10)
    for path, data in before.items():
        path.unlink() if data is None else path.write_bytes(data)
    await_(lambda: not box.status().notes, 10)
    status = box.await_state(RunState.FINISHED)
    assert status.watchdog_pid == first and status.attempt == 1
    box.check_losses(200)


def test_killed_keeper_is_replaced(box):
    box.configure(step_ms=10)
    box.up()
    box.await_step(30)
    kill(box.pid_of("adam.watchdog.keeper"))
    status = box.await_state(RunState.FINISHED)
    assert len(box.events("keeper_restarted")) == 1
    assert status.attempt == 1
    box.check_losses(200)


def test_everything_killed_and_up_again(box, await_):
    box.configure(step_ms=10)
    box.up()
    box.await_step(60)
    box.process.kill()
    box.process.wait()
    await_(lambda: not box.pid_of("adam.watchdog") and not box.trainer_pid(), 5)
    box.up()
    box.await_state(RunState.FINISHED)
    box.check_losses(200)
    assert {row["attempt"] for row in box.rows()} == {"1", "2"}


def test_down_saves_and_up_goes_on(box):
    box.configure(step_ms=10)
    box.up()
    box.await_step(33)
    box.want(running=False)
    status = box.await_state(RunState.STOPPED)
    last = int(box.rows()[-1]["step"])
    assert status.checkpoint.step == last < 200  # what was trained is on disk
    assert box.process.wait(10) == 0
    box.up()
    box.await_state(RunState.FINISHED)
    box.check_losses(200)
    assert len(box.rows()) == 200  # nothing was trained twice


def test_supervisord_asked_to_end_by_itself(box):
    box.configure(step_ms=10)
    box.up()
    box.await_step(33)
    box.process.terminate()
    box.process.wait(20)
    last = int(box.rows()[-1]["step"])
    assert box.status().checkpoint.step == last
    assert box.state() == RunState.STOPPED
    box.up()
    box.await_state(RunState.FINISHED)
    assert len(box.rows()) == 200


def test_pause_resume_and_save(box, await_):
    box.configure(step_ms=10)
    box.up()
    box.await_step(30)
    box.want(pauses=("human",))
    status = box.await_state(RunState.PAUSED)
    assert status.reason == "paused by human"
    rows = len(box.rows())
    time.sleep(2.5)  # longer than hang_seconds: a pause is not a hang
    assert len(box.rows()) <= rows + 1 and not box.events("hung")
    box.want(saves=1)
    await_(lambda: box.status().saves_done == 1, 10)
    box.await_state(RunState.FINISHED)
    box.check_losses(200)
    assert [item["kind"] for item in box.events("paused", "resumed")] == ["paused", "resumed"]


def test_a_configuration_error_fails_at_once(box):
    box.configure("0:exit=3")
    box.up()
    status = box.await_state(RunState.FAILED)
    assert "fake trainer: ends with 3 at step 0" in status.reason and status.attempt == 1
    assert box.process.wait(10) == 0


def test_the_same_failure_goes_back_to_before_a_snapshot_and_then_gives_up(box):
    """What the attempts began from was in memory only: it is dropped, and the checkpoint before it is taken."""
    box.configure("50:exit=1", step_ms=30)
    box.up()
    status = box.await_state(RunState.FAILED)
    assert "also from an older checkpoint" in status.reason and "ends with 1 at step 50" in status.reason
    assert len(box.events("crashed")) == 3  # same_failures, and once more from before
    assert [item["text"] for item in box.events("dropped") if "training failed after it" in item["text"]]
    assert [item["facts"]["step"] for item in box.events("started")][-1] == 40


def test_the_same_failure_takes_an_older_checkpoint_and_then_gives_up(box):
    box.checkpoint["ram"] = "off"
    box.configure("50:exit=1", step_ms=30)
    box.up()
    status = box.await_state(RunState.FAILED)
    assert "also from an older checkpoint" in status.reason and "ends with 1 at step 50" in status.reason
    assert len(box.events("crashed")) == 3  # same_failures, and once more from before
    assert len(box.events("quarantined")) == 1
    put_away = next(iter(box.paths.quarantine.iterdir()))
    assert put_away.joinpath("REASON.txt").read_text().startswith("training failed after it")


def test_a_fault_that_passes_is_survived(box):
    box.configure("50:exit=1@1", "50:signal=11@2", "90:raise@3")
    box.up()
    box.await_state(RunState.FINISHED)
    box.check_losses(200)
    kinds = [item["facts"]["failure"] for item in box.events("crashed")]
    assert kinds == ["code", "host", "code"]
    assert "a fault at step 90" in box.events("crashed")[2]["text"]


def test_a_bad_checkpoint_is_put_away_and_the_one_before_used(box):
    box.configure(step_ms=10)
    box.up()
    box.await_step(70)
    box.want(running=False)
    box.await_state(RunState.STOPPED)
    box.process.wait(10)
    newest = box.names()[-1]
    tensors = box.paths.checkpoints / newest / "rank-00000.safetensors"
    data = bytearray(tensors.read_bytes())
    data[-5] ^= 4
    tensors.write_bytes(data)
    box.up()
    box.await_state(RunState.FINISHED)
    assert [item["facts"]["checkpoint"] for item in box.events("quarantined")] == [newest]
    box.check_losses(200)


def test_forge_first(box):
    script = box.paths.root / "forge.py"
    script.write_text(
        "import pathlib, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import conftest\n"
        "conftest.make_data(conftest.RunPaths(pathlib.Path(sys.argv[2])))\n"
    )
    box.configure(forge=f"{sys.executable} {script}")
    box.up()
    box.await_state(RunState.FINISHED)
    assert [item["facts"]["program"] for item in box.events("started")] == ["forge", "trainer"]


def test_a_forge_that_makes_nothing_fails(box):
    box.configure(forge="true")
    box.up()
    status = box.await_state(RunState.FAILED)
    assert "the data are not ready" in status.reason


def test_a_deleted_log_directory_blocks_nobody(box, await_):
    box.configure(step_ms=10)
    box.up()
    box.await_step(30)
    shutil.rmtree(box.paths.logs)
    await_(box.paths.logs.exists)
    box.await_step(60)
    kill(box.trainer_pid())
    await_(lambda: box.events("crashed"))
    kill(box.status().watchdog_pid)
    box.await_state(RunState.FINISHED)
    box.check_losses(200)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk_is_waited_out(box, await_):
    root = str(box.paths.root)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", root], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        for directory in (box.paths.run, box.paths.logs, box.paths.staging):
            directory.mkdir(parents=True, exist_ok=True)
        box.trainer["steps"] = 400
        box.configure(step_ms=15)
        box.up()
        box.await_step(45)
        first, trainer = box.status().watchdog_pid, box.trainer_pid()
        ticks = start_ticks(trainer)
        filler = box.paths.root / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        await_(lambda: not alive(trainer, ticks), 10)  # it can't log its steps
        time.sleep(2.0)
        assert box.pid_of("adam.watchdog") == first
        filler.unlink()
        box.await_state(RunState.FINISHED)
        assert box.status().watchdog_pid == first
        box.check_losses(400)
        # Nobody could write down why the first attempts ended; the events waited in memory.
        crashed = [(item["facts"]["failure"], item["text"]) for item in box.events("crashed")]
        assert {failure for failure, _ in crashed} <= {"disk", "host"}, crashed
    finally:
        box.end()
        await_(
            lambda: subprocess.run(["umount", root], check=False).returncode == 0, 10
        )  # the dead let go of it a little later


@pytest.mark.e2e
@pytest.mark.campaign  # 40 s; test_faults.py has it with the real trainer
def test_a_frozen_watchdog_is_replaced(box, await_):
    box.trainer["steps"] = 100_000
    box.configure(step_ms=20)
    box.up()
    box.await_step(10)
    trainer, frozen = box.trainer_pid(), box.status().watchdog_pid
    kill(frozen, signal.SIGSTOP)
    await_(lambda: box.status().watchdog_pid != frozen, 45)
    assert box.trainer_pid() == trainer and box.status().attempt == 1


def test_idle_cost(box, await_):
    """supervisord, launcher, watchdog, keeper and uploader beside a training run: under 120 MB (PSS) and 1 % of a core."""
    box.trainer["steps"] = 100_000
    box.upload = Upload(target=f"file://{box.paths.root.parent}/far")
    box.configure(step_ms=250)
    box.up()
    # The fake trainer's checkpoints are no model's: the first upload fails, and is tried again half a minute later at the soonest.
    await_(lambda: box.events("upload_waiting", "upload_failed"), 60)
    names = {name: f"adam.watchdog.{name}" for name in ("launcher", "keeper", "uploader")} | {
        "watchdog": "adam.watchdog"
    }
    pids = {name: box.pid_of(module) for name, module in names.items()} | {"supervisord": box.process.pid}
    share = shares(pids)
    pss = {name: psutil.Process(pid).memory_full_info().pss / 1e6 for name, pid in pids.items()}
    print({name: f"{pss[name]:.1f} MB {share[name]:.2f} %" for name in pids})
    assert sum(pss.values()) < 120
    assert sum(share.values()) < 1.0


def shares(pids: dict[str, int], seconds: float = 20.0) -> dict[str, float]:
    """Per cent of a core that each process takes; the kernel counts in hundredths of a second."""
    before, began = {name: cpu_s(pid) for name, pid in pids.items()}, time.monotonic()
    time.sleep(seconds)
    wall = time.monotonic() - began
    return {name: (cpu_s(pid) - before[name]) / wall * 100 for name, pid in pids.items()}


def cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def test_a_frozen_keeper_does_not_keep_a_killed_trainer_from_starting(box, await_):
    box.configure(step_ms=10)
    box.up()
    box.await_step(30)
    keeper, trainer = box.pid_of("adam.watchdog.keeper"), box.trainer_pid()
    kill(keeper, signal.SIGSTOP)
    kill(trainer)
    await_(lambda: box.pid_of("adam.watchdog.keeper") not in (0, keeper), 20)
    assert box.events("keeper_restarted")
    box.await_state(RunState.FINISHED)
    box.check_losses(200)
