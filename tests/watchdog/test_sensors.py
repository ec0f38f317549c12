"""The GPU probe over a stand-in NVML, and the watchdog's patience with it."""

import os
import selectors
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from msgspec import json

from adam.contract.metrics import gpu_cells
from adam.contract.records import Gpu
from adam.watchdog.journal import Journal
from adam.watchdog.log import logger_to
from adam.watchdog.probe_words import Reading, Xid
from adam.watchdog.sensors import GpuSensors, HostSensors, none_s

PROBE = [sys.executable, "-P", "-m", "adam.watchdog.probe", "--interval", "0.05", "--parent", str(os.getpid())]

UNKNOWN = -10999  # the stand-in's word for a call that fails with NVML_ERROR_UNKNOWN


@contextmanager
def probing(**environment: str) -> Iterator[Callable[[], Reading]]:
    """A probe; gives what reads its next line."""
    with subprocess.Popen(PROBE, stdout=subprocess.PIPE, env=os.environ | environment) as process:
        assert process.stdout is not None
        try:
            yield lambda: json.decode(process.stdout.readline(), type=Reading)
        finally:
            process.kill()


def first_line(**environment: str) -> Reading:
    with probing(**environment) as read:
        return read()


def test_reads_a_gpu(nvml):
    gpu = Gpu(
        index=0,
        name="Stand-in",
        temperature_c=61,
        margin_c=26,
        power_w=350.5,
        power_limit_w=700.0,
        utilisation=97,
        memory_used_bytes=33,
        memory_total_bytes=80,
        memory_temperature_c=72,
        clocks=("sw_power_cap",),
        uncorrected=0,
        recovery="",
    )
    assert first_line() == Reading("ok", (gpu,))
    assert gpu_cells((gpu,)) == {
        "gpu_temp_c": "61",
        "gpu_margin_c": "26",
        "gpu_memory_temp_c": "72",
        "gpu_power_w": "350.5",
        "gpu_power_limit_w": "700",
        "gpu_clocks": "sw_power_cap",
        "gpu_util": "97",
        "vram_gb": "0.00",
    }


def test_what_an_old_driver_or_a_small_chip_does_not_tell_is_not_known(nvml, nvml_folders):
    nvml.say(power=-9999)
    (gpu,) = first_line(LD_LIBRARY_PATH=str(nvml_folders["old"])).gpus
    assert (gpu.temperature_c, gpu.utilisation) == (61, 97)
    unknown = (gpu.margin_c, gpu.memory_temperature_c, gpu.clocks, gpu.uncorrected, gpu.power_w, gpu.recovery)
    assert unknown == (None,) * 6


def test_what_fails_of_what_is_good_to_know_does_not_hide_the_temperature(nvml):
    nvml.say(power=UNKNOWN, margin=UNKNOWN)
    (gpu,) = first_line().gpus
    assert (gpu.temperature_c, gpu.power_w, gpu.margin_c) == (61, None, None)
    nvml.say(temp=UNKNOWN)
    assert first_line().sensors == "unknown"


@pytest.mark.parametrize(("fault", "why"), [("lost", "lost"), ("mismatch", "mismatch")])
def test_a_broken_driver_is_unknown_and_not_absent(nvml, fault, why):
    nvml.say(**{fault: 1})
    reading = first_line()
    assert (reading.sensors, reading.fault) == ("unknown", fault) and why in reading.why.lower()


def test_a_gpu_that_wants_something_done_is_read_all_the_same(nvml):
    for number, word in ((1, "reset"), (2, "reboot"), (4, "drain and reset"), (99, None)):
        nvml.say(recovery=number)
        assert [gpu.recovery for gpu in first_line().gpus] == [word]
    nvml.say(reset=1)
    reading = first_line()
    assert (reading.sensors, [gpu.recovery for gpu in reading.gpus]) == ("ok", ["reset"])


@pytest.mark.parametrize("words", ["lost", "unknown"])
def test_one_of_two_gpus_is_lost_and_the_other_still_read(nvml, words):
    nvml.say(gpus=2, **{words: 2})
    reading = first_line()
    assert (reading.sensors, [gpu.index for gpu in reading.gpus], reading.lost) == ("ok", [0], (1,))


def test_an_xid_is_told_at_once_and_once(nvml):
    with probing() as read:
        assert read().xids == ()
        nvml.say(xid=79)
        told = [xid for _ in range(20) for xid in read().xids]
    assert told == [Xid(0, 79)]


def test_a_gpu_that_is_lost_while_the_probe_listens_does_not_hide_the_others(nvml):
    nvml.say(gpus=2)
    with probing() as read:
        assert read().lost == ()
        nvml.say(gpus=2, lost=2)
        told = next(reading for reading in iter(read, None) if reading.lost)
        assert (told.sensors, told.lost, [gpu.index for gpu in told.gpus]) == ("ok", (1,), [0])
        nvml.say(gpus=2, lost=2, xid=31)
        assert next(reading for reading in iter(read, None) if reading.xids).xids == (Xid(0, 31),)


@pytest.mark.parametrize(("fault", "lost"), [("lost", (0,)), ("mismatch", ())])
def test_the_last_word_of_a_gpu_is_told(nvml, fault, lost):
    with probing() as read:
        assert read().sensors == "ok"
        nvml.say(xid=79, **{fault: 1})
        told = next(reading for reading in iter(read, None) if reading.sensors != "ok")
    assert (told.fault, told.lost, told.xids) == (fault, lost, (Xid(0, 79),))


def test_no_driver(tmp_path):
    assert first_line(LD_LIBRARY_PATH=str(tmp_path)).sensors == "none"


class Clock:
    """Lets the sensors live through hours in moments."""

    def __init__(self, paths) -> None:
        self.selector = selectors.DefaultSelector()
        self.journal = Journal(paths.events, logger_to(sys.stderr))
        self.sensors = GpuSensors(0.5, self.selector, self.journal, 2)
        self.now = 100.0

    def until(self, await_, look) -> None:
        def attend() -> bool:
            self.now += 0.001
            self.sensors.attend(self.now)
            return look(self.sensors)

        await_(attend, 10)


@pytest.fixture
def clock(paths):
    clock = Clock(paths)
    yield clock
    clock.sensors.end(clock.now)


def test_no_driver_needs_no_process_and_is_looked_for_again(clock, await_):
    for pause in (60, 120, 240):
        clock.until(await_, lambda sensors: sensors.state == "none" and not sensors.pid)
        clock.now += pause - 5
        clock.sensors.attend(clock.now)
        assert not clock.sensors.pid
        clock.now += 6
        clock.sensors.attend(clock.now)
        assert clock.sensors.pid


def test_a_driver_that_is_there_and_does_not_answer_is_asked_each_minute():
    assert [none_s(times, device=False) for times in (1, 3, 7, 5000)] == [60.0, 240.0, 3600.0, 3600.0]
    assert {none_s(times, device=True) for times in (1, 3, 5000)} == {60.0}


def test_a_probe_that_hangs_is_killed_and_tried_again_later(clock, await_, nvml):
    clock.until(await_, lambda sensors: sensors.state == "ok")
    assert clock.sensors.cells()["gpu_temp_c"] == "61"
    clock.sensors._child.kill()
    nvml.say(hang=1)
    clock.until(await_, lambda sensors: sensors.state == "unknown" and not sensors.pid)
    assert clock.sensors.cells() == {}
    clock.now += 6
    clock.sensors.attend(clock.now)
    hanging = clock.sensors.pid
    assert hanging
    for _ in range(14):
        clock.now += 1
        clock.sensors.attend(clock.now)
    assert clock.sensors.pid == hanging
    clock.now += 1
    clock.sensors.attend(clock.now)
    clock.now += 1
    clock.sensors.attend(clock.now)
    clock.until(await_, lambda sensors: sensors.pid == 0)
    nvml.say()
    clock.now += 11
    clock.until(await_, lambda sensors: sensors.state == "ok")


def test_what_the_driver_reports_becomes_events(clock, await_, nvml, paths):
    def told(kind: str) -> list[str]:
        lines = paths.events.read_text().splitlines()
        return [item["text"] for item in map(json.decode, lines) if item["kind"] == kind]

    clock.until(await_, lambda sensors: sensors.state == "ok")
    nvml.say(xid=79, ecc=3, clocks=64)
    clock.until(await_, lambda _: len(told("gpu")) == 3)
    assert sorted(told("gpu")) == [
        "GPU 0: 3 memory errors that could not be corrected (ECC), 3 in all",
        "GPU 0: clocks are held down (hw_thermal_slowdown)",
        "GPU 0: the driver reports Xid 79 (it has fallen off the bus)",
    ]
    nvml.say(xid=79, ecc=3, lost=1)
    clock.until(await_, lambda sensors: sensors.state == "unknown")
    assert len(told("gpu")) == 4 and "the machine needs one" in told("gpu")[-1]
    assert [text.split(" (")[0] for text in told("sensors")] == ["GPU sensors: ok", "GPU sensors: unknown"]


def test_host_cells(paths):
    cells = HostSensors(5.0, paths.root).cells(100.0)
    assert set(cells) == {"cpu_percent", "ram_gb", "disk_free_gb"} and float(cells["disk_free_gb"]) > 0
