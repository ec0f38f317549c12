"""What happens to a run, one thing after the other: seen, answered, and the losses are those of a run that was left alone.

What is seen of each is a row of the table in docs/operations.md (`fault_table`).
"""

import os
import shutil
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from fault_table import Row, record
from real_run import CONFIG, RealRun, wait_for
from stand_ins import Machine, StandInNvml

from adam.contract import schema
from adam.contract.clock import boottime_ns
from adam.contract.process import state_letter
from adam.contract.reboots import Reboots
from adam.contract.records import Plan, Status
from adam.contract.states import Phase

STEPS = 200
FROM_MEMORY = "the next attempt, from the snapshot in memory"
ENDED = "stacks and state into a bundle, SIGTERM, SIGKILL; the next attempt, from memory"
UNTOUCHED = "nothing is restarted"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Iterator[RealRun]:
    run = RealRun(tmp_path_factory.mktemp("undisturbed") / "run", steps=STEPS, config=KEEPING)
    run.adamctl("up", "--wait", timeout=300)
    yield run
    run.end()


KEEPING = CONFIG.replace("every_steps = 20", "every_steps = 20\nram_every_steps = 3\nkeep_last = 20")


def check_same(run: RealRun, other: RealRun) -> None:
    assert run.wait_final(300) == "finished", run.logs()
    assert run.losses() == other.losses() and run.validations() == other.validations()
    assert run.final_state() == other.final_state()
    assert run.processes() == []


def now() -> float:
    return boottime_ns() / 1e9


def event_after(run: RealRun, since: float, *kinds: str, timeout: float = 60) -> dict[str, Any]:
    """The first event of one of these kinds from `since` on."""

    def look() -> dict[str, Any] | None:
        found = [event for kind in kinds for event in run.events(kind) if event["boottime"] >= since]
        return min(found, key=lambda event: event["boottime"], default=None)

    return wait_for(f"{kinds}", look, timeout)


def next_trainer(run: RealRun, since: float) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        started = (event for event in run.events("started") if event["facts"]["program"] == "trainer")
        return next((event for event in started if event["boottime"] >= since), None)

    return wait_for("the next attempt", look)


OF_THE_TRAINER = [
    (25, "kill", "the trainer is killed (SIGKILL)", "host: SIGKILL"),
    (45, "segv", "SIGSEGV", "host: SIGSEGV"),
    (65, "abort", "`os.abort()`", "host: SIGABRT"),
    (85, "exit-1", "exit code 1", "code: exit 1"),
    (105, "exception", "an exception that nobody handles", "code: exit 1"),
    (125, "gil", "a C call that keeps the interpreter's lock", "hang in training"),
    (145, "deadlock", "a deadlock of its threads", "hang in training"),
    (165, "stop", "the trainer is stopped (SIGSTOP)", "hang in training, state T"),
]


@pytest.mark.timeout(600)
def test_a_trainer_that_dies_or_stands_still(new_run, undisturbed: RealRun) -> None:
    run = new_run(steps=STEPS, config=KEEPING)
    run.up_with(*(word for step, kind, *_ in OF_THE_TRAINER for word in ("--do", f"{step}:{kind}")))
    rows = []
    for step, _, fault, seen in OF_THE_TRAINER:
        at = run.fault_at(step)
        event = event_after(run, at, "crashed", "hung")
        started = next_trainer(run, at)
        back = run.first_row_of(started["facts"]["attempt"])
        assert started["facts"]["attempt"] == len(rows) + 3, "each fault ends an attempt; the forge was the first"
        assert "in memory" in started["text"] and started["facts"]["step"] >= step - 5, started
        rows.append(
            Row(fault, words(event), event["boottime"] - at, ENDED if "hang" in seen else FROM_MEMORY, back - at)
        )
        assert words(event) == seen
    check_same(run, undisturbed)
    for row in rows:
        record(row)


def words(event: dict[str, Any]) -> str:
    facts = event["facts"]
    if event["kind"] == "crashed":
        return f"{facts['failure']}: {facts['detail']}"
    letter = facts.get("process_state", "")
    return f"hang in {Phase(facts['phase']).name.lower()}" + (f", state {letter}" if letter == "T" else "")


def test_a_wrong_command_line_is_the_end_until_people_have_mended_it(new_run, undisturbed: RealRun) -> None:
    run = new_run(steps=STEPS, config=KEEPING)
    run.up_with("--do", "60:exit-2")
    assert run.wait_final() == "failed", run.logs()
    event = event_after(run, run.fault_at(60), "crashed")
    assert "exit code 2" in run.status()["reason"]
    run.adamctl("up")
    check_same(run, undisturbed)
    after = event["boottime"] - run.fault_at(60)
    record(Row("exit code 2", words(event), after, "failed at once, with the reason; `adamctl up` goes on", None))


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        pytest.param("memory", "MemoryError", id="host"),
        pytest.param("gpu-memory", "CUDA out of memory", id="gpu", marks=pytest.mark.campaign),  # the same way, 34 s
    ],
)
def test_out_of_memory(new_run, kind: str, fault: str) -> None:
    """The reference goes on from the same checkpoint, with the smaller micro-batch from there."""
    run = new_run(steps=STEPS, config=KEEPING.replace("keep_last = 20", 'keep_last = 20\nram = "off"'))
    run.up_with("--do", f"70:{kind}")
    assert run.wait_final() == "finished", run.logs()
    at = run.fault_at(70)
    event, started = event_after(run, at, "crashed"), next_trainer(run, at)
    plan = schema.load(run.paths.plan, Plan)
    assert plan is not None and plan.resume is not None and plan.micro_batch == 1
    begun = plan.resume.step
    child = new_run("child")
    shutil.rmtree(child.paths.root)
    run.adamctl("fork", "--from", f"{run.paths.checkpoints / plan.resume.checkpoint}", str(child.paths.root))
    child.paths.config.write_text(child.paths.config.read_text().replace("micro_batch = 2\n", "micro_batch = 1\n"))
    child.adamctl("up", "--wait", timeout=300)
    assert begun == 60 and child.losses() == run.losses()[begun:]
    back = run.first_row_of(started["facts"]["attempt"]) - at
    after = event["boottime"] - at
    losses = "equal to those of a run that goes on from there with as many samples at once"
    record(Row(fault, words(event), after, "half as many samples at once, as many in an update", back, losses))


@pytest.mark.timeout(600)
def test_what_stands_around_the_trainer(new_run, undisturbed: RealRun, machine: Machine) -> None:
    run = new_run(steps=STEPS, config=KEEPING)
    run.up_with("--slow", "0.35")
    wait_for("training", lambda: run.step() >= 5)
    rows = [
        supervisord_killed(run),
        watchdog_killed(run),
        logs_deleted(run),
        *clock_moved(run, machine),
        disk_stuck(run, machine),
        watchdog_stopped(run),
    ]
    check_same(run, undisturbed)
    for row in rows:
        record(row)


def goes_on(run: RealRun, steps: int = 2) -> None:
    """The same trainer takes more steps."""
    trainer, at = run.trainer_pid(), run.step()
    wait_for("more steps", lambda: run.step() >= at + steps)
    assert run.trainer_pid() == trainer and state_letter(trainer) not in (None, "Z")


def supervisord_killed(run: RealRun) -> Row:
    at = now()
    os.kill(int(run.paths.supervisor_pid.read_text()), signal.SIGKILL)
    wait_for("nobody outlives supervisord", lambda: not run.processes(), 5)
    gone = now() - at
    assert run.status()["state"] == "stopped"
    run.up_with("--slow", "0.35")
    attempt = next_trainer(run, at)["facts"]["attempt"]
    done = "nobody is left; `adamctl up` (systemd: by itself) goes on from memory"
    return Row("supervisord is killed", "stopped", gone, done, run.first_row_of(attempt) - at)


def watchdog_killed(run: RealRun) -> Row:
    trainer, watchdog, at = run.trainer_pid(), run.pid_of("adam.watchdog"), now()
    os.kill(watchdog, signal.SIGKILL)
    event = event_after(run, at, "watchdog_started")
    goes_on(run)
    assert run.trainer_pid() == trainer
    return Row(
        "the watchdog is killed",
        "by supervisord",
        event["boottime"] - at,
        "another one takes the living trainer over",
        None,
    )


def watchdog_stopped(run: RealRun) -> Row:
    trainer, watchdog, at = run.trainer_pid(), run.pid_of("adam.watchdog"), now()
    os.kill(watchdog, signal.SIGSTOP)
    event = event_after(run, at, "watchdog_started", timeout=60)
    goes_on(run)
    assert run.trainer_pid() == trainer
    seen = "by the launcher (systemd: WatchdogSec)"
    return Row(
        "the watchdog is stopped (SIGSTOP)",
        seen,
        event["boottime"] - at,
        "it is killed; another one takes the living trainer over",
        None,
    )


def logs_deleted(run: RealRun) -> Row:
    shutil.rmtree(run.paths.logs)
    goes_on(run)
    return Row("the log directory is deleted", "", None, UNTOUCHED, None)


def clock_moved(run: RealRun, machine: Machine) -> list[Row]:
    at = now()
    for offset in (86400, -86400, 0):
        machine.set_clock(offset)
        goes_on(run, 4)
    bad = [event for kind in ("crashed", "hung", "failed") for event in run.events(kind) if event["boottime"] >= at]
    assert not bad
    return [Row("the clock is set forth and back by a day", "", None, UNTOUCHED, None)]


def disk_stuck(run: RealRun, machine: Machine) -> Row:
    machine.stick_disk()
    wait_for("a save that does not end", lambda: any(run.paths.checkpoints.glob(".tmp-*")))
    at = now()
    goes_on(run, 5)
    assert not [event for event in run.events("checkpoint") if event["boottime"] >= at]
    machine.free_disk()
    freed = now()
    event_after(run, freed, "checkpoint")
    return Row(
        "an fsync of the disk does not return",
        "a save that takes long (told after a minute)",
        None,
        f"{UNTOUCHED}; the save ends when the disk answers",
        None,
    )


@pytest.mark.timeout(300)
def test_heat_and_sensors(new_run, undisturbed: RealRun, nvml: StandInNvml) -> None:
    run = new_run(steps=STEPS, config=KEEPING.replace("telemetry_seconds = 1", "telemetry_seconds = 0.5"))
    run.up_with("--slow", "0.25")
    wait_for("training", lambda: run.step() >= 5)
    rows = [hot_and_cool(run, nvml)]
    rows += [
        broken(run, nvml, "the driver was changed under the run (NVML does not fit)", "mismatch", mismatch=1),
        broken(run, nvml, "a GPU fell off the bus", "lost", lost=1),
        broken(run, nvml, "NVML hangs", "silent", hang=1),
    ]
    check_same(run, undisturbed)
    assert not run.events("crashed") and not run.events("hung")
    for row in rows:
        record(row)


def hot_and_cool(run: RealRun, nvml: StandInNvml) -> Row:
    at = now()
    nvml.say(temp=95)
    paused = event_after(run, at, "paused")
    assert paused["facts"]["by"] == "heat"
    wait_for("paused", lambda: run.state() == "paused")
    nvml.say(temp=60)
    cool = now()
    goes_on(run)
    after = paused["boottime"] - at
    return Row("a GPU has 95 °C", "heat", after, "paused until it is cool again", now() - cool)


def broken(run: RealRun, nvml: StandInNvml, fault: str, how: str, **says: int) -> Row:
    at = now()
    nvml.say(**says)
    event = event_after(run, at, "sensors")
    assert event["facts"]["sensors"] == "unknown"
    told = wait_for("the words", lambda: how == "silent" or run.events("gpu")[-1:])
    assert how == "silent" or told[0]["facts"]["fault"] == how
    goes_on(run)
    nvml.say()
    event_after(run, event["boottime"] + 0.001, "sensors")
    return Row(fault, f"sensors unknown: {how}", event["boottime"] - at, f"told once; {UNTOUCHED}", None)


GPU_WAITS = "no attempt before a GPU answers again; the reason says what to do"


@pytest.mark.timeout(300)
def test_no_gpu_to_train_on(new_run, undisturbed: RealRun, nvml: StandInNvml) -> None:
    asking = "telemetry_seconds = 0.5\nreboot = true\nreboot_after_minutes = 0.02\nreboot_uptime_minutes = 0.1"
    run = new_run(steps=STEPS, config=KEEPING.replace("telemetry_seconds = 1", asking))
    run.up_with("--slow", "0.1", "--gpu")
    wait_for("training", lambda: run.step() >= 5)
    rows = [gpu_lost(run, nvml), driver_changed_and_killed(run, nvml)]
    check_same(run, undisturbed)
    assert not run.events("hung") and not run.events("waiting")
    asked = schema.load(run.paths.reboots, Reboots)
    assert asked is not None and [item.why.split()[0] for item in asked.asked] == ["GPU", "the"]  # once each
    for row in rows:
        record(row)


def gpu_lost(run: RealRun, nvml: StandInNvml) -> Row:
    at = now()
    nvml.say(lost=1, xid=79)
    event = event_after(run, at, "crashed")
    back = comes_back(run, nvml, at, "GPU 0 fell off the bus (Xid 79): reboot")
    fault = "the GPU that is trained on falls off the bus"
    return Row(fault, words(event), event["boottime"] - at, GPU_WAITS, back)


def driver_changed_and_killed(run: RealRun, nvml: StandInNvml) -> Row:
    nvml.say(mismatch=1)
    changed = now()
    event_after(run, changed, "sensors")
    goes_on(run)
    at = now()
    os.kill(run.trainer_pid(), signal.SIGKILL)
    event = event_after(run, at, "crashed")
    back = comes_back(run, nvml, at, "the NVIDIA driver was changed under the run")
    fault = "the driver was changed under the run, and then the trainer is killed"
    return Row(fault, words(event), event["boottime"] - at, GPU_WAITS, back)


def comes_back(run: RealRun, nvml: StandInNvml, since: float, reason: str) -> float:
    """Training waits for `reason`, and goes on when the GPU answers again: seconds from there to the next step."""
    wait_for("it waits", lambda: run.state() == "waiting")
    assert run.status()["reason"].startswith(reason)
    assert event_after(run, since, "gpu")["kind"] == "gpu"
    assert event_after(run, since, "reboot")["text"].endswith(run.status()["reason"].removesuffix("; training waits"))
    waits = now()
    wait_for("it still waits", lambda: stamp_of(run) > waits + 5)  # a restart would have come after 0.1 s
    assert run.state() == "waiting"
    assert not [event for event in run.events("started") if event["boottime"] >= since]
    nvml.say()
    well = now()
    return run.first_row_of(next_trainer(run, well)["facts"]["attempt"]) - well


def stamp_of(run: RealRun) -> float:
    """When the watchdog wrote its status last, in seconds of CLOCK_BOOTTIME."""
    status = schema.load(run.paths.status, Status)
    return status.stamp.boottime if status is not None else 0.0
