"""The whole under a real systemd: installed, started, killed in every part, frozen, stopped, switched off, cut off, finished.

`bin/test --campaign -s tests/e2e/test_systemd_boot.py`, as root, with debootstrap and systemd-nspawn: five minutes. $ADAM_DEBIAN_ROOT keeps
the container's files from one run to the next.
"""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from booted import CHECKOUT, Booted, make_root, until, why_not
from real_run import CONFIG, RealRun

from adam.contract.process import processes_with, state_letter

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]
STEPS = 4000
RUN = "/var/lib/adam"
ADAMCTL = str(CHECKOUT / "bin/adamctl")
SYSTEMD_CONFIG = CONFIG.replace("hang_seconds = 3", "hang_seconds = 5")


@pytest.fixture(scope="module")
def box(tmp_path_factory) -> Iterator[Booted]:
    kept = os.environ.get("ADAM_DEBIAN_ROOT")
    root = Path(kept) if kept else tmp_path_factory.mktemp("debian") / "root"
    if not (root / "usr/lib/systemd/systemd").exists():
        make_root(root)
    shutil.rmtree(root / "var/lib/adam", ignore_errors=True)
    box = Booted(root)
    box.boot()
    try:
        yield box
    finally:
        box.end()


class Installed(RealRun):
    """The container's run, seen from the host."""

    def __init__(self, box: Booted) -> None:
        super().__init__(box.root / "var/lib/adam-config", steps=STEPS, config=SYSTEMD_CONFIG)
        self.box, config = box, self.paths.config
        self.given = "/" + str(config.relative_to(box.root))
        self.paths = type(self.paths)(box.root / RUN.lstrip("/"))

    def processes(self) -> list[int]:
        return processes_with("ADAM_SUPERVISED", RUN)

    def trains_beyond(self, step: int, seconds: float = 60) -> int:
        until(f"a step beyond {step}", lambda: self.step() > step, seconds, self.box)
        return self.step()

    def one(self, module: str) -> int:
        return until(f"a process of {module}", lambda: self.pid_of_any(module), 60, self.box)

    def pid_of_any(self, module: str) -> int:
        """The watchdog is systemd's, and so not among the processes of supervisord."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_bytes().split(b"\0")
                except (FileNotFoundError, ProcessLookupError):
                    continue
                if (module.encode() in command and RUN.encode() in command) or supervisord(module, command):
                    return int(entry.name)
        return 0


def supervisord(module: str, command: list[bytes]) -> bool:
    return module == "supervisor.supervisord" and f"{RUN}/run/supervisord.conf".encode() in command


PARTS = ("adam.trainer", "adam.watchdog.launcher", "adam.watchdog.keeper", "adam.watchdog", "supervisor.supervisord")


def test_a_run_in_the_hands_of_systemd(box: Booted, new_run) -> None:
    run = Installed(box)
    print("\n" + box.must(ADAMCTL, "systemd", "install", "--prefix", str(CHECKOUT), "--config", run.given))
    began = time.monotonic()
    box.must("systemctl", "enable", "--now", "adam-trainer")
    assert box.must("systemctl", "is-active", "adam-trainer", "adam-watchdog").split() == ["active", "active"]
    step = run.trains_beyond(0)
    print(f"first step {time.monotonic() - began:.1f} s after systemctl start")
    users = {Path(f"/proc/{run.one(part)}").stat().st_uid for part in PARTS}
    assert len(users) == 1 and users != {0}, "all of them are the user adam's"
    for part in PARTS:
        step = killed(run, part, step)
    frozen(run)
    stopped(run)
    switched_off(run)
    finished(run, new_run)
    box.must(ADAMCTL, "systemd", "uninstall")
    assert not list((box.root / "etc/systemd/system").glob("adam*"))


def killed(run: Installed, part: str, step: int) -> int:
    pid, began = run.one(part), time.monotonic()
    os.kill(pid, signal.SIGKILL)
    until(f"another {part}", lambda: run.pid_of_any(part) not in (0, pid), 60, run.box)
    back = time.monotonic() - began
    found = run.trains_beyond(max(step, run.step()))
    print(f"{part} killed: another after {back:.1f} s, the next step after {time.monotonic() - began:.1f} s")
    return found


def frozen(run: Installed) -> None:
    pid, trainer, began = run.one("adam.watchdog"), run.one("adam.trainer"), time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    until("another watchdog by WatchdogSec", lambda: run.pid_of_any("adam.watchdog") not in (0, pid), 90, run.box)
    print(f"a frozen watchdog was replaced after {time.monotonic() - began:.1f} s")
    run.trains_beyond(run.step())
    assert run.one("adam.trainer") == trainer, "the new watchdog disturbed a living trainer"


def stopped(run: Installed) -> None:
    run.box.must("systemctl", "stop", "adam-trainer")
    assert run.state() == "stopped"
    status = json.loads(run.box.must(ADAMCTL, "status", "--json", "--run", RUN))
    assert status["checkpoint"]["step"] == status["step"] == run.step(), "the last step was not saved"
    assert not run.pid_of_any("adam.trainer") and run.pid_of_any("adam.watchdog")
    run.box.must("systemctl", "start", "adam-trainer")
    run.trains_beyond(run.step())


def switched_off(run: Installed) -> None:
    for how in (run.box.power_off, run.box.cut_power):
        trainer = run.one("adam.trainer")
        how()
        assert state_letter(trainer) in (None, "Z") and not run.processes()
        at, began = run.step(), time.monotonic()
        run.box.boot()
        run.trains_beyond(at)
        print(
            f"{how.__name__} at step {at}: on again, beyond that step {time.monotonic() - began:.1f} s after the boot began"
        )


def finished(run: Installed, new_run) -> None:
    until("finished", lambda: run.state() == "finished", 600, run.box)
    until(
        "the unit ends",
        lambda: run.box.run("systemctl", "is-active", "adam-trainer").stdout.strip() == "inactive",
        60,
        run.box,
    )
    other = new_run("undisturbed", steps=STEPS, config=SYSTEMD_CONFIG)
    other.adamctl("up", "--wait", timeout=1800)
    assert run.losses() == other.losses() and len(run.losses()) == STEPS
    assert run.final_state() == other.final_state()
    print(
        f"{STEPS} steps, {len(run.rows())} rows: losses and the last state's SHA-256 are those of a run without systemd"
    )
