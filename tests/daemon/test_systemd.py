"""The units: systemd accepts them, and they keep the promises that the processes rely on."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from adam.contract.clock import boot_id

UNITS = Path(__file__).parent.parent.parent / "systemd"


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / f"{name}.service")
    return parser


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here")
def test_systemd_accepts_them(tmp_path) -> None:
    for program in ("bin/adamctl", ".venv/bin/python"):
        place = tmp_path / program
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("/bin/true", place)
    copies = []
    for path in sorted([*UNITS.glob("*.service"), *UNITS.glob("*.path")]):
        copies.append(tmp_path / path.name)
        copies[-1].write_text(path.read_text().replace("/opt/adam", str(tmp_path)))
    command = ["systemd-analyze", "verify", "--man=no", *map(str, copies)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert len(copies) == 5
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here")
@pytest.mark.parametrize("name", ["adam-watchdog", "adam-trainer", "adam-forge", "adam-reboot"])
def test_a_unit_is_closed_to_what_it_does_not_need(name) -> None:
    """`systemd-analyze security`: 0 is a locked box, 10 an open door."""
    command = [
        "systemd-analyze",
        "security",
        "--offline=true",
        "--threshold=40",
        "--no-pager",
        UNITS / f"{name}.service",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-200:] + done.stderr


def test_no_unit_has_a_list_of_devices() -> None:
    """GPUs whose driver is loaded later would not be on it."""
    for name in ("adam-trainer", "adam-watchdog"):
        assert not {"ProtectClock", "PrivateDevices", "DevicePolicy", "DeviceAllow"} & set(unit(name)["Service"])


def test_the_trainer_starts_after_the_watchdog_and_stops_before_it() -> None:
    assert "adam-watchdog.service" in unit("adam-trainer")["Unit"]["After"].split()
    assert unit("adam-trainer")["Unit"]["Wants"] == "adam-watchdog.service"


def test_nobody_outlives_a_unit_and_memory_kills_one_process() -> None:
    for name in ("adam-trainer", "adam-watchdog"):
        service = unit(name)["Service"]
        assert (service["Type"], service["KillMode"], service["OOMPolicy"]) == ("notify", "mixed", "continue")
        assert "PYTHONSAFEPATH=1" in service["Environment"].split()
    assert unit("adam-trainer")["Service"]["NotifyAccess"] == "all"
    assert unit("adam-watchdog")["Service"]["WatchdogSec"] == "30"
    assert unit("adam-forge")["Service"]["Type"] == "oneshot"


@pytest.mark.parametrize("name", ["adam-watchdog", "adam-trainer", "adam-forge"])
def test_what_libraries_keep_in_a_home_goes_elsewhere(name) -> None:
    """The home of `--user NAME` is read-only: there xet opens no session, and Triton compiles nothing."""
    service = unit(name)["Service"]
    assert service["ProtectHome"] == "read-only" and service["CacheDirectory"] == "adam"
    places = dict(word.split("=") for word in service["Environment"].split())
    caches = {key: place for key, place in places.items() if key.endswith(("_CACHE", "_CACHE_DIR"))}
    assert caches.keys() == {"HF_HUB_CACHE", "HF_XET_CACHE", "TRITON_CACHE_DIR"}
    assert len(set(caches.values())) == 3 and all(place.startswith("/var/cache/adam/") for place in caches.values())
    assert not {"HF_HOME", "XDG_CACHE_HOME", "HOME"} & places.keys(), "the token of `hf auth login` is found by them"


def test_the_units_and_who_asks_them_agree_on_the_boot(monkeypatch) -> None:
    """%b is written without dashes."""
    for name in ("adam-watchdog", "adam-trainer", "adam-forge", "adam-reboot"):
        assert "ADAM_BOOT_ID=%b" in unit(name)["Service"]["Environment"].split()
    plain = boot_id.__wrapped__()
    monkeypatch.setenv("ADAM_BOOT_ID", plain.replace("-", ""))
    assert boot_id.__wrapped__() == plain
    monkeypatch.setenv("ADAM_BOOT_ID", "f" * 32)
    assert boot_id.__wrapped__() == "ffffffff-ffff-ffff-ffff-ffffffffffff"


def test_a_restart_of_the_machine_is_asked_for_by_a_change_and_never_by_what_lies_there() -> None:
    """A request from before a restart must not bring the next one."""
    path = configparser.ConfigParser(strict=False, interpolation=None)
    path.optionxform = str  # type: ignore[assignment,method-assign]
    path.read(UNITS / "adam-reboot.path")
    assert (
        set(path["Path"]) == {"PathChanged", "Unit"} and path["Path"]["PathChanged"] == "/var/lib/adam/run/reboots.json"
    )
    assert (
        "User" not in unit("adam-reboot")["Service"] and "Install" not in unit("adam-reboot") and "Install" not in path
    )
    assert unit("adam-watchdog")["Unit"]["Wants"] == path["Unit"]["PartOf"].replace("watchdog.service", "reboot.path")
