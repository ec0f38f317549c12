"""The GPU probe over a stand-in NVML, and the watchdog's patience with it."""

import os
import selectors
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import json

from adam.contract.records import Gpu
from adam.watchdog.journal import Journal
from adam.watchdog.log import logger_to
from adam.watchdog.probe_words import Reading
from adam.watchdog.sensors import GpuSensors, HostSensors

SOURCE = Path(__file__).with_name("nvml_stand_in.c")
PROBE = [sys.executable, "-P", "-m", "adam.watchdog.probe", "--interval", "0.05", "--parent", str(os.getpid())]


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory) -> str:
    """The folder of a libnvidia-ml.so.1 of ours."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build the stand-in NVML with")
    folder = tmp_path_factory.mktemp("nvml")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(folder / "libnvidia-ml.so.1"), str(SOURCE)], check=True)
    return str(folder)


def first_line(stand_in: str, mode: str) -> Reading:
    environment = os.environ | {"LD_LIBRARY_PATH": stand_in, "NVML_MODE": mode}
    with subprocess.Popen(PROBE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.kill()
    return json.decode(line, type=Reading)


def test_reads_a_gpu(stand_in):
    assert first_line(stand_in, "") == Reading("ok", (Gpu(0, "Stand-in", 61, 26, 350.5, 97, 33, 80),))


@pytest.mark.parametrize(("mode", "why"), [("lost", "lost"), ("mismatch", "mismatch")])
def test_a_broken_driver_is_unknown_and_not_absent(stand_in, mode, why):
    reading = first_line(stand_in, mode)
    assert reading.sensors == "unknown" and why in reading.why.lower()


def test_no_driver(tmp_path):
    assert first_line(str(tmp_path), "").sensors == "none"


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


def test_no_driver_needs_no_process(clock, await_):
    clock.until(await_, lambda sensors: sensors.state == "none" and not sensors.pid)
    clock.now += 3000
    clock.sensors.attend(clock.now)
    assert not clock.sensors.pid
    clock.now += 1000
    clock.sensors.attend(clock.now)
    assert clock.sensors.pid  # once an hour it looks again


def test_a_probe_that_hangs_is_killed_and_tried_again_later(clock, await_, stand_in, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", stand_in)
    clock.until(await_, lambda sensors: sensors.state == "ok")
    assert clock.sensors.cells()["gpu_temp_c"] == "61"
    clock.sensors._child.kill()
    monkeypatch.setenv("NVML_MODE", "hang")
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
    monkeypatch.setenv("NVML_MODE", "")
    clock.now += 11
    clock.until(await_, lambda sensors: sensors.state == "ok")


def test_host_cells(paths):
    cells = HostSensors(5.0, paths.root).cells(100.0)
    assert set(cells) == {"cpu_percent", "ram_gb", "disk_free_gb"} and float(cells["disk_free_gb"]) > 0
