"""Heat and broken sensors with real processes: supervisord, watchdog, probe over a stand-in NVML, launcher and the fake trainer."""

import pytest

from adam.contract.states import RunState

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def hot_box(box, nvml):
    box.watchdog["telemetry_seconds"] = 0.5
    box.configure(step_ms=25)
    return box


def facts(box, kind: str, key: str) -> list:
    return [item["facts"].get(key) for item in box.events(kind)]


def test_95_degrees_and_back(hot_box, nvml, await_):
    box = hot_box
    box.up()
    box.await_step(30)
    nvml.say(temp=95)
    status = box.await_state(RunState.PAUSED)
    assert status.reason.startswith("paused by heat (GPU 0 at 95 °C") and status.attempt == 1
    step = box.rows()[-1]["step"]
    nvml.say(temp=75)  # warm is not cool: it stays so, until longer than hang_seconds
    await_(lambda: "75 °C" in box.status().reason, 10)
    nvml.say(temp=74)
    await_(lambda: "74 °C" in box.status().reason, 10)
    assert box.rows()[-1]["step"] == step and box.state() == RunState.PAUSED
    nvml.say(temp=60)
    status = box.await_state(RunState.FINISHED)
    assert status.attempt == 1 and not box.events("hung", "crashed")
    assert facts(box, "paused", "by") == ["heat"] and facts(box, "heat", "temperature_c") == [95, 60]
    assert len(box.rows()) == 200  # nothing was trained twice
    box.check_losses(200)
    assert {row["gpu_temp_c"] for row in box.rows()} >= {"61", "60"}


def test_heat_outlives_the_watchdog(hot_box, nvml, await_):
    box = hot_box
    box.up()
    box.await_step(20)
    nvml.say(temp=95)
    first = box.await_state(RunState.PAUSED).watchdog_pid
    step = box.rows()[-1]["step"]
    nvml.say(hang=1)  # and the next one can't see
    box.kill(first)
    await_(lambda: box.status().watchdog_pid != first, 10)
    await_(lambda: any("its sensors say nothing" in note for note in box.status().notes), 10)
    assert box.state() == RunState.PAUSED and box.rows()[-1]["step"] == step
    box.kill(box.pid_of("adam.watchdog.probe"))  # what hangs in a call is replaced
    nvml.say()
    box.await_state(RunState.FINISHED)
    box.check_losses(200)


@pytest.mark.parametrize(
    ("says", "gpu", "sensors"),
    [
        ({"mismatch": 1}, ["mismatch"], "Mismatch"),
        ({"lost": 1}, ["lost"], "lost"),
        ({"hang": 1}, [], ""),
    ],
)
def test_a_broken_sensor_is_told_once_and_touches_nothing(hot_box, nvml, await_, says, gpu, sensors):
    box = hot_box
    box.up()
    box.await_step(10)
    await_(lambda: box.status().sensors == "ok", 10)
    nvml.say(**says)
    if not sensors:  # who hangs is killed after 15 s; here, by us
        box.kill(box.pid_of("adam.watchdog.probe"))
    await_(lambda: box.status().sensors == "unknown", 10)
    status = box.await_state(RunState.FINISHED)
    assert status.attempt == 1 and not box.events("paused", "hung", "crashed")
    assert facts(box, "gpu", "fault") == gpu
    assert facts(box, "sensors", "sensors") == ["ok", "unknown"]
    assert sensors.lower() in box.events("sensors")[-1]["text"].lower()
    box.check_losses(200)


def test_an_xid_is_an_event_beside_training(hot_box, nvml, await_):
    box = hot_box
    box.up()
    box.await_step(10)
    nvml.say(xid=79)
    await_(lambda: box.events("gpu"), 10)
    assert facts(box, "gpu", "xid") == [79]
    assert box.await_state(RunState.FINISHED).attempt == 1
