"""The power cap with a real probe over a stand-in NVML: what it changed is restored, whoever was killed, and nobody's else is touched."""

import os
import selectors
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from msgspec import json

from adam.contract import schema
from adam.contract.records import PowerFile
from adam.contract.states import RunState
from adam.watchdog.journal import Journal
from adam.watchdog.log import logger_to
from adam.watchdog.policy_power import CapRules, Orders
from adam.watchdog.probe_words import Held, PowerWord, Reading
from adam.watchdog.sensors import GpuSensors

RULES = CapRules(floor_w=600.0, every_s=0.0)
HOT, COOL = {"temp": 78}, {"temp": 61}


@pytest.fixture
def probing(paths, nvml):
    @contextmanager
    def probing(rules: CapRules = RULES) -> Iterator[Callable[[], Reading]]:
        """A probe; gives what reads its next line. Behind the block it is told that this is the end, and gone."""
        orders = json.encode(Orders(str(paths.power), rules)).decode()
        command = [sys.executable, "-P", "-m", "adam.watchdog.probe", "--interval", "0.05", "--power", orders]
        with subprocess.Popen(
            [*command, "--parent", str(os.getpid())], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None

            def read() -> Reading:
                return json.decode(process.stdout.readline(), type=Reading)

            read.process = process
            try:
                yield read
                process.communicate(timeout=20)
            finally:
                process.kill()

    return probing


def told(read: Callable[[], Reading], what: str) -> PowerWord:
    """The next word of this kind."""
    while True:
        reading = read()
        assert reading.sensors == "ok"
        for word in reading.power:
            if word.what == what:
                return word


def changes(paths) -> dict[str, Any]:
    found = schema.load(paths.power, PowerFile)
    return dict(found.gpus) if found else {}


def test_a_hot_gpu_is_held_down_and_given_back(paths, nvml, probing) -> None:
    nvml.say(**HOT)
    with probing() as read:
        assert told(read, "lowered") == PowerWord(0, "lowered", 665.0, 700.0)
        while (reading := read()).gpus[0].power_limit_w != 600.0:
            assert reading.held
        assert read().held == (Held(0, 600.0, 700.0),)
        assert nvml.limits() == [665, 630, 600] and changes(paths)["GPU-0"].original == 700_000
        nvml.say(**COOL)
        assert told(read, "restored") == PowerWord(0, "restored", 700.0, 700.0)
        assert read().held == ()
    assert nvml.limits() == [665, 630, 600, 635, 670, 700] and changes(paths) == {}


def test_at_the_end_it_is_restored_at_once(paths, nvml, probing) -> None:
    nvml.say(**HOT, gpus=2)
    with probing(msgspec.structs.replace(RULES, every_s=60.0)) as read:
        told(read, "lowered")
        read()
    assert nvml.limits(0) == nvml.limits(1) == [665, 700] and changes(paths) == {}


def test_a_gpu_that_is_lost_keeps_no_other_from_being_restored(paths, nvml, probing) -> None:
    nvml.say(**HOT, gpus=2)
    with probing(msgspec.structs.replace(RULES, every_s=60.0)) as read:
        told(read, "lowered")
        nvml.say(**HOT, gpus=2, lost=1)
        while not read().lost:
            pass
    assert (nvml.limits(0), nvml.limits(1)) == ([665], [665, 700]) and list(changes(paths)) == ["GPU-0"]


@pytest.mark.parametrize("next_rules", [CapRules(), RULES], ids=["switched off", "cool"])
def test_the_next_probe_restores_what_a_killed_one_changed(paths, nvml, probing, next_rules) -> None:
    nvml.say(**HOT)
    with probing() as read:
        told(read, "lowered")
        read.process.kill()
    assert nvml.limits()[-1] < 700 and changes(paths)
    nvml.say(**COOL)
    with probing(next_rules) as read:
        assert told(read, "restored").watts == 700.0
        read.process.kill()
    assert nvml.limits()[-1] == 700 and changes(paths) == {}


@pytest.mark.parametrize("death", ["after the note", "after the change"])
def test_killed_between_the_note_and_the_change_or_behind_it(paths, nvml, probing, death) -> None:
    nvml.say(**HOT, die=1)
    with probing() as read:
        while read.process.poll() is None and read.process.stdout.readline():
            pass
    assert nvml.limits() == [665] and changes(paths)["GPU-0"].ours == (700_000, 665_000)
    if death == "after the note":
        nvml.limits_file.unlink()  # the driver never heard of it
    nvml.say(**COOL)
    with probing(CapRules()) as read:
        while changes(paths):
            assert read().sensors == "ok"
        read.process.kill()
    assert nvml.limits() == ([] if death == "after the note" else [665, 700])


def test_what_somebody_else_has_set_is_left_alone(paths, nvml, probing) -> None:
    nvml.say(**HOT)
    with probing(msgspec.structs.replace(RULES, every_s=60.0)) as read:
        told(read, "lowered")
        with nvml.limits_file.open("a") as file:
            file.write("0 450000\n")
        assert told(read, "foreign") == PowerWord(0, "foreign", 450.0)
        assert not any(read().power for _ in range(3))
    assert nvml.limits() == [665, 450] and changes(paths) == {}


@pytest.mark.parametrize(("error", "why"), [(4, "ermission"), (999, "nknown")], ids=["permission", "any other"])
def test_a_refusal_is_one_word_and_on_without(paths, nvml, probing, error, why) -> None:
    """And the sensors go on speaking: who can't slow a hot GPU down must see that it is hot."""
    nvml.say(**HOT, unset=error)
    with probing() as read:
        word = told(read, "refused")
        assert word.gpu == 0 and why in word.why
        for _ in range(5):
            reading = read()
            assert reading.sensors == "ok" and reading.gpus and not reading.power and not reading.held
    assert nvml.limits() == []


def test_a_chip_whose_least_is_no_whole_watt_is_held_at_it_and_given_back(paths, nvml, probing) -> None:
    nvml.say(**HOT, least=680_400)
    with probing() as read:
        while read().gpus[0].power_limit_w != 680.4:
            pass
        nvml.say(**COOL, least=680_400)
        told(read, "restored")
    assert nvml.limits()[-1] == 700 and changes(paths) == {}


def test_a_refusal_that_passes_is_no_reason_to_leave_it_lowered_at_the_end(paths, nvml, probing) -> None:
    nvml.say(**HOT)
    with probing(msgspec.structs.replace(RULES, floor_w=200.0)) as read:
        told(read, "lowered")
        nvml.say(**HOT, unset=999)
        told(read, "refused")
        nvml.say(**HOT)
        read()
    assert nvml.limits()[-1] == 700 and changes(paths) == {}


def test_what_cannot_be_written_down_is_not_done(paths, nvml, probing) -> None:
    nvml.say(**HOT)
    paths.power = paths.root / "nowhere" / "power.json"
    with probing() as read:
        word = told(read, "unwritten")
        assert (word.watts, word.of) == (700.0, 700.0) and "No such file" in word.why
        assert told(read, "unwritten") == word, "and tried again"
    assert nvml.limits() == []


def test_what_cannot_be_written_down_is_given_back_all_the_same(paths, nvml, probing) -> None:
    """The note of the lowering says all that a restoring one would."""
    paths.power = paths.root / "disk" / "power.json"
    paths.power.parent.mkdir()
    nvml.say(**HOT)
    with probing(msgspec.structs.replace(RULES, every_s=60.0)) as read:
        told(read, "lowered")
        shutil.rmtree(paths.power.parent)
    assert nvml.limits() == [665, 700]


def test_a_note_that_is_none_blinds_nobody(paths, nvml, probing) -> None:
    paths.power.mkdir()
    with probing() as read:
        assert read().gpus[0].temperature_c == 61


def test_of_an_earlier_boot_it_means_nothing(paths, nvml, probing) -> None:
    nvml.say(**HOT)
    with probing() as read:
        told(read, "lowered")
        read.process.kill()
    schema.save(paths.power, msgspec.structs.replace(schema.load(paths.power, PowerFile), boot_id="another"))
    count = len(nvml.limits())
    nvml.say(**COOL)
    with probing(CapRules()) as read:
        assert not any(read().power for _ in range(3))
        read.process.kill()
    assert len(nvml.limits()) == count


def test_off_by_default(paths, nvml, probing) -> None:
    nvml.say(**HOT)
    with probing(CapRules()) as read:
        assert not any(read().power for _ in range(3))
        read.process.kill()
    assert nvml.limits() == [] and not paths.power.exists()


def test_the_watchdog_tells_of_it_and_ends_the_probe_with_patience(paths, nvml, await_) -> None:
    nvml.say(**HOT)
    journal = Journal(paths.events, logger_to(sys.stderr))
    orders = Orders(str(paths.power), msgspec.structs.replace(RULES, every_s=60.0))
    sensors = GpuSensors(0.5, selectors.DefaultSelector(), journal, 2, orders)

    def held() -> str:
        sensors.attend(100.0)
        return sensors.note

    await_(held, 20)
    assert sensors.note == "GPU 0 is held down to 665 W (of 700 W): it was getting too hot"
    sensors.end(101.0)
    assert nvml.limits() == [665, 700]
    (event,) = (item for item in map(json.decode, paths.events.read_text().splitlines()) if item["kind"] == "gpu")
    assert event["text"] == "GPU 0 gets hot: its power limit is lowered to 665 W of 700 W"
    assert event["facts"] == {"gpu": 0, "power": "lowered", "watts": 665}


def test_a_probe_that_has_just_died_keeps_no_gpu_lowered_at_the_end(paths, nvml, await_) -> None:
    nvml.say(**HOT)
    journal = Journal(paths.events, logger_to(sys.stderr))
    orders = Orders(str(paths.power), msgspec.structs.replace(RULES, every_s=60.0))
    sensors = GpuSensors(0.5, selectors.DefaultSelector(), journal, 2, orders)

    def attended() -> GpuSensors:
        sensors.attend(100.0)
        return sensors

    await_(lambda: attended().note, 20)
    os.kill(sensors.pid, signal.SIGKILL)
    await_(lambda: not attended().pid, 20)
    sensors.end(100.1)
    assert nvml.limits()[-1] == 700 and changes(paths) == {}


def test_a_whole_run_caps_before_it_pauses_and_leaves_the_gpu_as_it_was(box, nvml, await_) -> None:
    box.watchdog |= {"telemetry_seconds": 0.5, "power_floor_watts": 650.0}
    box.configure(step_ms=20)
    nvml.say(**HOT)
    box.up()
    await_(lambda: nvml.limits() == [665], 20)
    await_(lambda: any("held down to 665 W" in note for note in box.status().notes), 10)
    watchdog = box.status().watchdog_pid
    box.kill(watchdog)  # its probe dies with it, and the next one knows
    await_(lambda: box.status().watchdog_pid != watchdog and box.status().notes, 20)
    box.await_state(RunState.FINISHED)
    box.process.wait(30)
    assert nvml.limits()[-1] == 700 and changes(box.paths) == {}
    assert nvml.limits() in ([665, 700], [665, 650, 700])
    assert not box.events("paused") and {row["gpu_power_limit_w"] for row in box.rows()} & {"665", "650"}
    box.check_losses(200)
