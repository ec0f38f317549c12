"""`adamctl systemd install|uninstall`: one run of this machine, in the hands of systemd."""

import argparse
import grp
import os
import pwd
import shutil
import subprocess
from pathlib import Path

from adam.contract.config_file import load_config
from adam.contract.durable import make_directories, replace_file
from adam.contract.errors import AdamError, BusyError, UsageError
from adam.contract.paths import RunPaths
from adam.daemon.unit_files import REBOOTS, RUN, UNITS, Places, check_places, directory_text, unit_text, user_text

CHECKOUT = Path(__file__).resolve().parent.parent
PARTS = ("contract", "daemon", "forge", "trainer", "watchdog", "systemd", "bin", "docs")
FILES = ("pyproject.toml", "constraints.txt", "README.md", "LICENSE")
ETC = Path("/etc")
COMMAND_S = 300.0
OTHERS_ENTER = 0o001


def show(arguments: argparse.Namespace) -> int:
    """Which units of Adam this machine has."""
    del arguments
    there = installed()
    print(
        "installed: " + ", ".join(there) if there else "no unit of Adam is installed; `adamctl systemd install` does it"
    )
    return 0


def install(arguments: argparse.Namespace) -> int:
    """Copy, make the environment, the user, the run directory and the units; start nothing."""
    places = places_of(arguments)
    check(places)
    program = put_program(places)
    make_user(places)
    check_python(places)
    make_run(places, arguments.config)
    names = wanted(reboots=arguments.reboot)
    for name in names:
        write(ETC / "systemd/system" / name, unit_text(shipped(name), places))
    call("systemctl", "daemon-reload")
    print(f"installed: {program} and {', '.join(names)}; the run is {places.run}, the user {places.user}")
    config = RunPaths(places.run).config
    print(
        f"its configuration is {config}"
        + ("" if config.exists() else ", which is not there yet: without it the demo is trained")
    )
    print("start it, now and at each boot: systemctl enable --now adam-trainer")
    return 0


def uninstall(arguments: argparse.Namespace) -> int:
    """Stop the run (it saves), and take the units away. What was trained stays, and so do the program and the user."""
    del arguments
    must_be_root()
    there = installed()
    if not there:
        print("no unit of Adam is installed")
        return 0
    # The trainer first: its last save is committed by the watchdog.
    for name in sorted(there, key=lambda name: name != "adam-trainer.service"):
        call("systemctl", "disable", "--now", name, seconds=None)
    for path in (
        *(ETC / "systemd/system" / name for name in there),
        ETC / "sysusers.d/adam.conf",
        ETC / "tmpfiles.d/adam.conf",
    ):
        path.unlink(missing_ok=True)
    call("systemctl", "daemon-reload")
    print(f"removed: {', '.join(there)}; the run, the program and the user stay")
    return 0


def installed() -> list[str]:
    return [name for name in (*UNITS, *REBOOTS) if (ETC / "systemd/system" / name).exists()]


def wanted(*, reboots: bool) -> list[str]:
    """The units to install. What may restart the machine is there only where somebody asks, or has asked before this upgrade."""
    there = installed()
    return [*UNITS, *(name for name in REBOOTS if reboots or name in there)]


def places_of(arguments: argparse.Namespace) -> Places:
    places = Places(Path(arguments.prefix).absolute(), Path(arguments.run or RUN).absolute(), arguments.user)
    check_places(places)
    return places


def must_be_root() -> None:
    if os.geteuid() != 0:
        raise UsageError("this changes /etc/systemd and needs root", "run it with sudo")
    if shutil.which("systemctl") is None:
        raise UsageError("there is no systemctl here", "without systemd use `adamctl up`")


def check(places: Places) -> None:
    """Everything that can be said before anything is written."""
    must_be_root()
    if not RunPaths(places.run).has_socket_inside:  # each unit has a /tmp of its own
        raise UsageError(f"the path {places.run} is too long for a unix socket in it", "choose a shorter --run")
    if not (CHECKOUT / "systemd").is_dir():
        raise UsageError(f"{CHECKOUT} is no clone of Adam: the units are not there", "run bin/adamctl of a clone")
    for name in UNITS:
        if subprocess.run(["systemctl", "is-active", "--quiet", name], check=False).returncode == 0:
            raise BusyError(f"{name} is running", "stop it first: systemctl stop adam-trainer adam-watchdog")
    owner = owner_of(places.run)
    if owner not in (None, places.user, "root"):
        raise UsageError(
            f"{places.run} belongs to {owner}", f"give it to {places.user} with chown -R, or name --user {owner}"
        )


def owner_of(path: Path) -> str | None:
    return path.owner() if path.exists() else None


def put_program(places: Places) -> Path:
    """Copy this clone to the prefix where it is not that, and have its environment made. The path of its adamctl."""
    program = places.prefix / "bin/adamctl"
    if places.prefix.resolve() != CHECKOUT:
        places.prefix.mkdir(parents=True, exist_ok=True)
        for name in PARTS:
            shutil.rmtree(places.prefix / name, ignore_errors=True)
            shutil.copytree(CHECKOUT / name, places.prefix / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in FILES:
            shutil.copy2(CHECKOUT / name, places.prefix / name)
    call(str(program), "--help", quiet=True, seconds=None)
    return program


def make_user(places: Places) -> None:
    """A system user by sysusers.d, where there is none of this name."""
    if not known(places.user):
        write(ETC / "sysusers.d/adam.conf", user_text(shipped("adam.sysusers"), places))
        call("systemd-sysusers", str(ETC / "sysusers.d/adam.conf"))


def known(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def check_python(places: Places) -> None:
    """Raise UsageError where the user could not even enter the directory of its Python (one below /root, say)."""
    if places.user == "root":
        return
    for path in (places.prefix / ".venv/bin/python", (places.prefix / ".venv/bin/python").resolve()):
        closed = next((parent for parent in path.parents if not parent.stat().st_mode & OTHERS_ENTER), None)
        if closed is not None:
            raise UsageError(
                f"the user {places.user} can't use {path}: {closed} is closed to others",
                f"make it again from a Python for all: rm -r {places.prefix}/.venv, and PYTHON=/usr/bin/python3 before this command",
            )


def make_run(places: Places, config: str | None) -> None:
    """The run directory, by tmpfiles.d, and its configuration where one is named."""
    group = grp.getgrgid(pwd.getpwnam(places.user).pw_gid).gr_name
    make_directories(places.run.parent)
    write(ETC / "tmpfiles.d/adam.conf", directory_text(shipped("adam.tmpfiles"), places, group))
    call("systemd-tmpfiles", "--create", str(ETC / "tmpfiles.d/adam.conf"))
    if config is not None:
        load_config(Path(config))
        target = RunPaths(places.run).config
        replace_file(target, Path(config).read_bytes())
        shutil.chown(target, places.user, group)


def shipped(name: str) -> str:
    return (CHECKOUT / "systemd" / name).read_text()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, text.encode())


def call(*command: str, quiet: bool = False, seconds: float | None = COMMAND_S) -> None:
    """Run a command of the system. Raises AdamError with its exit code where it fails; it has told why on stderr."""
    try:
        done = subprocess.run(command, stdout=subprocess.DEVNULL if quiet else None, timeout=seconds, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AdamError(f"`{' '.join(command)}` failed: {error}") from None
    if done.returncode != 0:
        raise AdamError(f"`{' '.join(command)}` failed with exit {done.returncode}", "mend that and run it again")
