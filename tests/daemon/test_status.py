"""`adamctl status` on run directories made by hand."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from adam.contract import schema
from adam.contract.clock import boottime_ns, stamp
from adam.contract.config import Sinks
from adam.contract.lease import take_lease, write_lease
from adam.contract.process import start_ticks
from adam.contract.records import CheckpointSeen, Fit, Fitted, Gpu, Plan, Resume
from adam.contract.shared import Pulse, SharedWord
from adam.contract.states import Phase
from adam.daemon.report import describe, human_lines, human_time
from adam.daemon.status import look

FIELDS = {
    "schema", "run", "name", "state", "reason", "step", "steps", "tokens", "loss", "val_loss", "val_bits_per_byte",
    "order2_bits_per_byte", "tokens_per_second", "eta_s", "attempt", "restarts", "progress", "trainer", "watchdog", "checkpoint", "snapshot",
    "upload", "sinks", "gpus", "changes", "fit", "breaks", "notes",
}  # fmt: skip


def write_pulse(paths, name: str = "0", **values) -> None:
    word = SharedWord(paths.pulse(name), Pulse, write=True)
    word.write(
        Pulse(
            **{
                "pid": os.getpid(),
                "attempt": 1,
                "token": 1,
                "progress_ns": boottime_ns(),
                "phase": Phase.TRAINING,
                **values,
            }
        )
    )
    word.close()


def test_how_an_update_is_computed(world) -> None:
    config = world.config()
    config = msgspec.structs.replace(config, trainer=msgspec.structs.replace(config.trainer, fit="auto"))
    paths = world.run(config=config)
    assert describe(look(paths))["fit"] is None
    chosen = Fitted(8, "states", 0.07, 96_100_000_000)
    fit = Fit(key="k", attempt=3, room=150_000_000_000, copy=0, measured=(chosen,), chosen=chosen)
    schema.save(paths.fit, fit)
    report = describe(look(paths))
    assert report["fit"]["micro_batch"] == 8 and report["fit"]["measured_by_attempt"] == 3
    said = "fit         8 samples at once, states of scans computed again: 96.1 GB of 150.0 GB"
    assert said in human_lines(report)
    paths.fit.write_bytes(b"{")  # torn by a power cut
    assert describe(look(paths))["fit"] is None
    other = world.run("other")
    schema.save(other.fit, fit)  # it is off now
    assert describe(look(other))["fit"] is None


def test_a_training_run(world) -> None:
    paths = world.run()
    checkpoint = world.checkpoint(paths, 2)
    seen = CheckpointSeen(checkpoint.name, 2, True, stamp())
    world.status(paths, checkpoint=seen, gpus=(Gpu(index=0, name="H200", temperature_c=50, power_w=690.5),), restarts=2)
    world.write_metrics(paths, [world.row(1), world.row(2, val_loss=4.5, val_bits_per_byte=2.25), world.row(3)])
    fd, lease = take_lease(paths, "trainer", 1, 1)
    write_lease(fd, msgspec.structs.replace(lease, child_pid=os.getpid(), child_ticks=start_ticks(os.getpid())))
    write_pulse(paths, step=3, done=3, total=100)
    report = json.loads(world.adamctl("status", "--json", "--run", "run").stdout)
    os.close(fd)
    assert set(report) == FIELDS
    assert (report["run"], report["name"], report["state"]) == (str(paths.root), "run", "training")
    assert (report["step"], report["steps"], report["tokens"], report["restarts"]) == (3, 100, 96, 2)
    assert (report["loss"], report["val_loss"], report["val_bits_per_byte"]) == (4.97, 4.5, 2.25)
    assert report["tokens_per_second"] == 64.0
    assert report["eta_s"] == 97 * 32 / 64
    assert report["trainer"]["pid"] == os.getpid()
    assert 0 <= report["trainer"]["pulse_age_s"] < 30
    assert report["watchdog"] == {"pid": os.getpid()}
    assert report["checkpoint"]["path"] == str(checkpoint)
    assert report["checkpoint"]["verified"] is True
    assert report["progress"] == {"phase": "training", "done": 3, "total": 100}
    assert report["gpus"][0]["temperature_c"] == 50
    text = world.adamctl("status", "--run", "run").stdout
    assert "training" in text and "50 °C" in text and "2.250 bits per byte" in text


def test_where_metrics_go(world) -> None:
    sinks = Sinks(prometheus_port=9464, trackio="p")
    paths = world.run(config=msgspec.structs.replace(world.config(), sinks=sinks))
    world.status(paths, gpus=(Gpu(0, "H200", power_w=600.4, power_limit_w=665.0),))
    report = describe(look(paths))
    assert report["sinks"] == {"prometheus": "http://127.0.0.1:9464/metrics", "trackio": "project p"}
    lines = human_lines(report)
    assert "metrics     prometheus: http://127.0.0.1:9464/metrics; trackio: project p" in lines
    assert "gpu         0: H200, 600 of 665 W" in lines


def test_what_the_watchdog_does_otherwise_than_configured(world) -> None:
    paths = world.run()
    world.status(paths, attempt=3)
    assert not [line for line in human_lines(describe(look(paths))) if line.startswith("changed")]
    schema.save(
        paths.plan,
        Plan(program="trainer", attempt=3, token=3, skip=((640, 656), (1200, 1204)), micro_batch=2, lr_factor=0.5),
    )
    report = describe(look(paths))
    assert report["changes"] == {"skip": [[640, 656], [1200, 1204]], "micro_batch": 2, "lr_factor": 0.5}
    told = "samples 640 to 655, 1,200 to 1,203 are left out; 2 samples at once; learning rate x 0.5"
    assert f"changed     {told}" in human_lines(report)


def test_a_run_whose_processes_are_all_gone(world) -> None:
    paths = world.run()
    world.status(paths, watchdog_pid=999_999_999, watchdog_ticks=1)
    report = describe(look(paths))
    assert report["state"] == "stopped"
    assert "goes on from the beginning" in report["reason"]
    assert report["watchdog"] == {"pid": None}
    world.checkpoint(paths, 40)
    report = describe(look(paths))
    assert "goes on from step 40" in report["reason"]
    assert (report["checkpoint"]["step"], report["checkpoint"]["verified"]) == (40, False)


def test_a_pid_that_belongs_to_somebody_else_now(world) -> None:
    paths = world.run()
    world.status(paths, watchdog_ticks=12345)
    assert describe(look(paths))["state"] == "stopped"


def test_a_final_state_stays(world) -> None:
    paths = world.run()
    world.status(paths, state="failed", reason="no checkpoint verifies", watchdog_pid=999_999_999)
    report = describe(look(paths))
    assert (report["state"], report["reason"]) == ("failed", "no checkpoint verifies")


def test_a_run_that_was_never_started(world) -> None:
    report = describe(look(world.run()))
    assert (report["state"], report["step"], report["checkpoint"]["path"]) == ("stopped", 0, None)


def test_after_a_rollback_the_step_is_the_attempts_own(world) -> None:
    paths = world.run()
    world.status(paths, attempt=2)
    world.write_metrics(paths, [world.row(step, val_loss=float(step), val_bits_per_byte=1.0) for step in range(1, 10)])
    schema.save(paths.plan, Plan(program="trainer", attempt=2, token=2, resume=Resume("step-00000005-a01", 5)))
    report = describe(look(paths))
    assert (report["step"], report["val_loss"], report["loss"]) == (5, 5.0, 4.95)
    write_pulse(paths, attempt=2, token=2, step=7)
    assert describe(look(paths))["step"] == 7


def test_the_pulse_is_ahead_of_rows_that_are_written_rarely(world) -> None:
    paths = world.run()
    world.status(paths)
    world.write_metrics(paths, [world.row(50)])
    write_pulse(paths, step=73)
    report = describe(look(paths))
    assert (report["step"], report["tokens"]) == (73, 73 * 32)


def test_a_forging_run_shows_its_progress(world) -> None:
    paths = world.run()
    world.status(paths, state="forging", reason="the data are not ready")
    schema.save(paths.plan, Plan(program="forge", attempt=1, token=1))
    fd, lease = take_lease(paths, "forge", 1, 1)
    write_lease(fd, msgspec.structs.replace(lease, child_pid=os.getpid(), child_ticks=start_ticks(os.getpid())))
    write_pulse(paths, "forge", phase=Phase.READING, done=30, total=120)
    report = describe(look(paths))
    os.close(fd)
    assert report["progress"] == {"phase": "reading", "done": 30, "total": 120}
    assert report["trainer"] == {"pid": None, "pulse_age_s": None}
    assert report["step"] == 0
    assert "reading, 25 %" in "\n".join(human_lines(report))


def test_a_watchdog_that_is_silent_is_noted(world) -> None:
    paths = world.run()
    now = stamp()
    world.status(paths, stamp=msgspec.structs.replace(now, boottime=now.boottime - 60))
    assert "nothing for 60 s" in describe(look(paths))["notes"][0]


def test_a_loss_that_is_not_finite_is_null_in_json(world) -> None:
    paths = world.run()
    world.status(paths)
    world.write_metrics(paths, [world.row(1, loss=None, grad_norm=None)])
    assert json.loads(world.adamctl("status", "--json", "--run", "run").stdout)["loss"] is None


def test_status_is_light(world) -> None:
    world.run()
    code = (
        "import sys\nfrom adam.daemon.cli import main\ncode = main()\n"
        "heavy = {'torch', 'rich', 'psutil', 'numpy', 'supervisor', 'structlog', 'xmlrpc'} & set(sys.modules)\n"
        "assert not heavy, heavy\nsys.exit(code)"
    )
    command = [sys.executable, "-P", "-c", code, "status", "--json", "--run", str(world.root / "run")]
    subprocess.run(command, check=True, capture_output=True)
    # 0.4 s are promised; on a machine whose speed nobody knows, that is 20 times a Python that does nothing.
    status = [sys.executable, "-P", "-m", "adam.daemon", *command[-4:]]
    nothing = [sys.executable, "-P", "-c", "pass"]
    pairs = [(cpu_s(status), cpu_s(nothing)) for _ in range(3)]
    assert min(first for first, _ in pairs) < 20 * min(second for _, second in pairs)


def cpu_s(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.21, "3.2 s"), (600, "10 min"), (19_200, "5 h 20 min"), (273_600, "3 d 4 h")]
)
def test_times(seconds: float, text: str) -> None:
    assert human_time(seconds) == text


def test_a_reader_that_has_enough_is_no_error(world) -> None:
    world.run()
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-P", *world.program(fake=False), "status", "--run", str(world.root / "run")]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_field_is_explained() -> None:
    text = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    table = text.split("| field of the report |")[1].split("\n\n")[0]
    named = {name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert named == FIELDS
