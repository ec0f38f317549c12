"""Who is root and restarts the machine: within bounds of its own, whatever the run says."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from adam.contract import schema
from adam.contract.clock import Stamp, stamp
from adam.contract.config import Config, Watchdog
from adam.contract.config_file import write_lock
from adam.contract.errors import DataError
from adam.contract.paths import RunPaths
from adam.contract.reboots import DAY_S, Reboot, RebootRules, Reboots, wait_s
from adam.contract.states import Exit
from adam.daemon import doctor_gpu, reboot, systemd
from adam.daemon.unit_files import HEARS, Places, unit_text

RULES = RebootRules(per_day=2, uptime_s=900.0)
NOW = Stamp(wall=1_800_000_000.0, boot_id="this", boottime=10_000.0)


def ago(seconds: float, boot: str = "this") -> Reboot:
    return Reboot(Stamp(NOW.wall - seconds, boot, NOW.boottime - seconds), 120, "GPU 0 fell off the bus")


@pytest.mark.parametrize(
    ("ages", "uptime", "wait"),
    [
        ([], 10_000, 0.0),
        ([], 100, 800.0),
        ([100.0], 10_000, 0.0),
        ([100.0, 50_000.0], 10_000, DAY_S - 50_000),
        ([100.0, DAY_S + 1], 10_000, 0.0),
        ([10.0, 20.0, 30.0], 10_000, DAY_S - 20),
    ],
)
def test_how_long_until_the_next_one(ages, uptime, wait):
    assert wait_s(RULES, ages, uptime) == wait
    assert wait_s(RebootRules(), ages, uptime) == float("inf")


@given(st.lists(st.floats(1.0, 20_000.0), max_size=60), st.integers(1, 4), st.floats(900.0, 7200.0))
def test_whoever_asks_all_the_time_gets_no_more_than_the_bounds(pauses, per_day, uptime_s):
    """Each restart starts the machine anew; whoever asks does so again after each pause."""
    rules, done, now, booted = RebootRules(per_day=per_day, uptime_s=uptime_s), [], 0.0, 0.0
    for pause in pauses:
        now += pause
        if wait_s(rules, [now - at for at in done], now - booted) == 0.0:
            done.append(now)
            booted = now
    for number, at in enumerate(done):
        assert sum(at - DAY_S < other <= at for other in done[: number + 1]) <= per_day
        assert number == 0 or at - done[number - 1] >= uptime_s


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ((), False),
        ((ago(5),), True),
        ((ago(50_000, "last"), ago(5)), True),
        ((ago(5), ago(50_000, "last")), False),
        ((ago(5, "last"),), False),  # from before the restart that it asked for
        ((ago(700),), False),
    ],
)
def test_a_request_is_answered_at_once_or_never(asked, answered):
    assert (reboot.request(Reboots(asked=asked), NOW) is not None) == answered
    assert reboot.request(None, NOW) is None


def test_what_is_refused_and_why():
    assert reboot.refusal(RULES, Reboots(), NOW, 10_000, enabled=True) == ""
    assert "not enabled" in reboot.refusal(RULES, Reboots(), NOW, 10_000, enabled=False)
    assert "in 13 minutes" in reboot.refusal(RULES, Reboots(), NOW, 100, enabled=True)
    spent = Reboots(asked=(ago(3000, "a"), ago(2000, "b")))
    assert "2 a day" in reboot.refusal(RULES, spent, NOW, 10_000, enabled=True)


@pytest.fixture
def commands(monkeypatch) -> list[list[str]]:
    """The commands that were given to the system, all of which went well. The machine has run for a day."""
    given: list[list[str]] = []

    def run(command, **_):
        given.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(reboot.subprocess, "run", run)
    monkeypatch.setattr(reboot, "boottime_ns", lambda: 86_400 * 10**9)
    return given


def ask(paths: RunPaths) -> None:
    paths.run.mkdir(exist_ok=True, parents=True)
    schema.save(paths.reboots, Reboots(asked=(Reboot(stamp(), 120, "GPU 0 fell off the bus"),)))


def test_it_writes_its_own_journal_before_it_restarts_and_stops_at_its_bounds(tmp_path, commands, capsys):
    paths, journal = RunPaths(tmp_path / "run"), tmp_path / "reboots.json"
    assert reboot.answer(paths, journal, RULES) == Exit.OK and not commands
    for _ in range(4):
        ask(paths)
        reboot.answer(paths, journal, RULES)
    assert commands.count(["systemctl", "reboot"]) == 2
    found = schema.load(journal, Reboots)
    assert found is not None and [item.why for item in found.asked] == ["GPU 0 fell off the bus"] * 2
    out = capsys.readouterr().out
    assert out.count("the machine is restarted: GPU 0 fell off the bus") == 2 and out.count("refused: the bounds") == 2


def test_where_its_journal_cannot_be_written_nothing_is_restarted(tmp_path, commands):
    paths = RunPaths(tmp_path / "run")
    ask(paths)
    with pytest.raises(OSError, match="Not a directory"):
        reboot.answer(paths, paths.reboots / "journal.json", RULES)
    assert ["systemctl", "reboot"] not in commands


def test_a_journal_that_cannot_be_read_restarts_nothing(tmp_path, commands):
    paths, journal = RunPaths(tmp_path / "run"), tmp_path / "reboots.json"
    ask(paths)
    journal.write_text("{")
    with pytest.raises(DataError):
        reboot.answer(paths, journal, RULES)
    assert not commands or commands[-1][1] == "is-enabled"


def test_the_command_of_the_unit_is_understood(tmp_path):
    words = next(line for line in systemd.shipped("adam-reboot.service").splitlines() if line.startswith("ExecStart="))
    options = words.partition("adam.daemon.reboot ")[2].replace("/var/lib/adam", str(tmp_path / "run"))
    options = options.replace("/var/log/adam-reboot", str(tmp_path))
    command = [sys.executable, "-P", "-m", "adam.daemon.reboot", *options.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "nothing is asked for\n" and not (tmp_path / "reboots.json").exists()


def test_doctor_says_whether_anybody_would_hear_it(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor_gpu, "ETC", tmp_path / "etc")
    paths = RunPaths(tmp_path / "run")
    paths.run.mkdir(parents=True)
    write_lock(paths.lock, Config())
    assert not list(doctor_gpu.check_gpu_wait(paths))
    write_lock(paths.lock, replace(Config(), watchdog=Watchdog(reboot=True)))
    (told,) = doctor_gpu.check_gpu_wait(paths)
    assert told.line().startswith("warn  watchdog.reboot is on, and no adam-reboot.path hears")
    unit = tmp_path / "etc/systemd/system" / HEARS
    unit.parent.mkdir(parents=True)
    for run, mark in ((Path("/other"), "warn"), (paths.root, "ok")):
        unit.write_text(unit_text(systemd.shipped(HEARS), Places(Path("/opt/adam"), run, "adam")))
        (told,) = doctor_gpu.check_gpu_wait(paths)
        assert told.mark.value == mark
