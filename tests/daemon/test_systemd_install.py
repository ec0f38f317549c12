"""`adamctl systemd install`: units for other places and users, refusals before anything is written. A real systemd: tests/e2e."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from adam.contract.errors import UsageError
from adam.daemon import systemd
from adam.daemon.unit_files import REBOOTS, UNITS, Places, check_places, directory_text, unit_text, user_text

HERE = Places(Path("/srv/adam"), Path("/data/run"), "ml")


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_names_the_places_of_this_machine_and_no_other(name) -> None:
    text = unit_text(systemd.shipped(name), HERE)
    assert "/opt/adam" not in text and "/var/lib/adam" not in text
    assert "\nUser=ml\n" in text and "\nReadWritePaths=/data/run\n" in text and "StateDirectory" not in text
    as_shipped = Places(Path("/opt/adam"), Path("/var/lib/adam"), "adam")
    assert unit_text(systemd.shipped(name), as_shipped) == systemd.shipped(name)
    assert "\nStateDirectory=adam\n" in systemd.shipped(name)


@pytest.mark.parametrize("name", REBOOTS)
def test_the_units_of_a_restart_name_them_too(name) -> None:
    text = unit_text(systemd.shipped(name), HERE)
    assert "/opt/adam" not in text and "/var/lib/adam" not in text and "/data/run" in text
    assert text.count("/var/log/adam-reboot/") == systemd.shipped(name).count("/var/log/adam-reboot/")


def test_the_user_and_the_directory() -> None:
    assert (
        user_text(systemd.shipped("adam.sysusers"), HERE).splitlines()[-1] == 'u ml - "Adam, a training run" /data/run'
    )
    assert (
        directory_text(systemd.shipped("adam.tmpfiles"), HERE, "users").splitlines()[-1]
        == "d /data/run 0750 ml users -"
    )


@pytest.mark.parametrize("place", ["/data/my run", "/data/50%", "/data/$x", "/data/a;b"])
def test_a_place_that_a_unit_would_read_otherwise_is_refused(place) -> None:
    with pytest.raises(UsageError, match="systemd unit reads otherwise"):
        check_places(Places(Path("/opt/adam"), Path(place), "adam"))


def arguments(**changes) -> argparse.Namespace:
    return argparse.Namespace(
        **{"run": None, "prefix": "/opt/adam", "user": "adam", "config": None, "reboot": False, **changes}
    )


@pytest.fixture
def machine(tmp_path, monkeypatch) -> list[tuple[str, ...]]:
    """A machine whose /etc is below tmp_path, whose commands are noted, and whose user is this one."""
    called: list[tuple[str, ...]] = []
    monkeypatch.setattr(systemd, "ETC", tmp_path / "etc")
    monkeypatch.setattr(systemd, "must_be_root", lambda: None)
    monkeypatch.setattr(systemd, "call", lambda *command, **_: called.append(command))
    monkeypatch.setattr(systemd.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 3))
    return called


def test_install_copies_the_program_and_starts_nothing(machine, tmp_path, capsys) -> None:
    prefix, run = tmp_path / "opt", tmp_path / "run"
    run.mkdir()
    (tmp_path / "my.toml").write_text("[trainer]\nsteps = 7\n")
    user = Path("/").owner()
    given = arguments(prefix=str(prefix), run=str(run), user=user, config=str(tmp_path / "my.toml"))
    assert systemd.install(given) == 0
    assert (run / "adam.toml").read_text() == "[trainer]\nsteps = 7\n"
    assert (prefix / "watchdog/policy.py").exists() and (prefix / "bin/_venv.sh").exists()
    assert not list(prefix.rglob("__pycache__"))
    assert {path.name for path in (tmp_path / "etc/systemd/system").iterdir()} == set(UNITS)
    assert machine[0] == (str(prefix / "bin/adamctl"), "--help") and machine[-1] == ("systemctl", "daemon-reload")
    assert not any("start" in word or "enable" in word for command in machine for word in command)
    assert "systemctl enable --now adam-trainer" in capsys.readouterr().out
    assert systemd.uninstall(given) == 0
    assert not list((tmp_path / "etc/systemd/system").iterdir()) and (run / "adam.toml").exists()
    stopped = [command[-1] for command in machine if "disable" in command]
    assert stopped[0] == "adam-trainer.service" and set(stopped) == set(UNITS)


def test_what_restarts_the_machine_is_installed_where_it_is_asked_for_and_stays_through_an_upgrade(
    machine, tmp_path
) -> None:
    (tmp_path / "run").mkdir()
    given = {"prefix": str(tmp_path / "opt"), "run": str(tmp_path / "run"), "user": Path("/").owner()}
    units = tmp_path / "etc/systemd/system"
    assert systemd.install(arguments(**given, reboot=True)) == 0
    assert {path.name for path in units.iterdir()} == {*UNITS, *REBOOTS}
    (units / REBOOTS[1]).write_text("of an older Adam")
    assert systemd.install(arguments(**given)) == 0
    assert f"--run {tmp_path / 'run'} " in (units / REBOOTS[1]).read_text()
    assert systemd.uninstall(arguments(**given)) == 0
    assert not list(units.iterdir())
    assert {command[-1] for command in machine if "disable" in command} == {*UNITS, *REBOOTS}


def test_a_python_that_the_user_cannot_reach_is_told_before_the_units_are_written(machine, tmp_path) -> None:
    closed = tmp_path / "closed"
    (tmp_path / "opt/.venv/bin").mkdir(parents=True)
    (closed / "bin").mkdir(parents=True)
    (closed / "bin/python3").touch()
    (tmp_path / "opt/.venv/bin/python").symlink_to(closed / "bin/python3")
    for parent in (tmp_path, *tmp_path.parents):
        if parent != Path("/") and parent.owner() == Path(tmp_path).owner():
            parent.chmod(parent.stat().st_mode | 0o001)
    closed.chmod(0o700)
    with pytest.raises(UsageError, match=f"{closed} is closed to others; .*PYTHON=/usr/bin/python3"):
        systemd.check_python(Places(tmp_path / "opt", tmp_path / "run", "nobody"))
    closed.chmod(0o755)
    systemd.check_python(Places(tmp_path / "opt", tmp_path / "run", "nobody"))


def test_a_path_too_long_for_a_socket_is_refused(machine, tmp_path) -> None:
    with pytest.raises(UsageError, match="too long for a unix socket"):
        systemd.install(arguments(run="/" + "d" * 120))


@pytest.mark.skipif(os.geteuid() != 0, reason="giving up root needs root")
def test_root_acts_as_the_owner_of_the_run(tmp_path) -> None:
    (tmp_path / "run").mkdir()
    os.chown(tmp_path / "run", 65534, 65534)
    script = (
        "import os, sys, pathlib\nfrom adam.daemon.owner import act_as_owner\n"
        "act_as_owner(pathlib.Path(sys.argv[1]))\nprint(os.getresuid(), os.getresgid(), os.getgroups())"
    )
    command = [sys.executable, "-P", "-c", script]
    as_owner = subprocess.run([*command, str(tmp_path / "run")], capture_output=True, text=True, check=True).stdout
    assert as_owner.startswith("(65534, 65534, 65534) (65534, 65534, 65534) [65534]")
    as_root = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=True).stdout
    assert as_root.startswith("(0, 0, 0)")
