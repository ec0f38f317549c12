"""The whole under a real systemd: installed, started, killed in every part, frozen, stopped, switched off, cut off, finished.

`bin/test --campaign -s tests/e2e/test_systemd_boot.py`, as root, with debootstrap and systemd-nspawn: ten minutes, most of them for the
libraries that the installation fetches. $ADAM_DEBIAN_ROOT keeps the container's files from one run to the next; $ADAM_DEBIAN_BIND names what
of this machine pip needs in there (PATH:PATH), if anything.
"""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from configparser import RawConfigParser
from pathlib import Path

import pytest
from booted import CHECKOUT, Booted, make_root, until, why_not
from fake_hub import REPO, TOKEN, FakeHub
from real_run import CONFIG, RealRun
from stand_ins import HERE, compile_library

from adam.contract.checkpoints import list_checkpoints
from adam.contract.process import processes_with, state_letter

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]
STEPS = 6000
RUN = "/var/lib/adam"
ADAMCTL = "/opt/adam/bin/adamctl"
PLAIN_CONFIG = CONFIG.replace("hang_seconds = 3", "hang_seconds = 5")
SYSTEMD_CONFIG = f"""{PLAIN_CONFIG}
[upload]
repo = "{REPO}"
every_minutes = 1

[alerts]
command = 'echo "$ADAM_ALERT" >> {RUN}/told.txt'
"""
TEMPLATE = "adam-template"
# In this order: after the template, the trainer has none to be copied from.
PARTS = (
    "adam.trainer",
    "adam.watchdog.launcher",
    "adam.watchdog.keeper",
    "adam.watchdog.probe",
    "adam.watchdog.uploader",
    "adam.watchdog.alerter",
    "adam.watchdog",
    "supervisor.supervisord",
)
XET = """
import hf_xet
hf_xet.XetSession().new_upload_commit(endpoint="http://127.0.0.1:9", token="none", token_expiry_unix_secs=2**33)
print("a session")
"""
RESTRICTS = (
    "Protect",
    "Private",
    "Restrict",
    "ReadWrite",
    "SystemCall",
    "Memory",
    "Lock",
    "NoNew",
    "Capab",
    "Cache",
    "Environment",
)


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    """On this machine, whose network is the container's."""
    with FakeHub(exists=False) as hub:
        yield hub


@pytest.fixture(scope="module")
def box(hub: FakeHub, tmp_path_factory) -> Iterator[Booted]:
    kept = os.environ.get("ADAM_DEBIAN_ROOT")
    root = Path(kept) if kept else tmp_path_factory.mktemp("debian") / "root"
    if not (root / "usr/lib/systemd/systemd").exists():
        make_root(root)
    for place in ("var/lib/adam", "var/cache/adam"):
        shutil.rmtree(root / place, ignore_errors=True)
    for path in (root / "etc/systemd/system").rglob("adam-*.service"):
        path.unlink()  # of a test that has failed
    made = around(root, hub)
    box = Booted(root)
    box.boot()
    try:
        yield box
    finally:
        box.end()
        for path in made:
            path.unlink()


def around(root: Path, hub: FakeHub) -> tuple[Path, ...]:
    """What people put there for a run: the secret where docs/operations.md says, the Hub's address; and a GPU's driver."""
    token = root / "etc/credstore/hf_token"
    token.parent.mkdir(mode=0o700, exist_ok=True)
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o600)
    drop_in = root / "etc/systemd/system/adam-watchdog.service.d/test.conf"
    drop_in.parent.mkdir(exist_ok=True)
    said = f"HF_ENDPOINT={hub.url} HF_HUB_DISABLE_XET=1 HF_HUB_DISABLE_TELEMETRY=1 LD_LIBRARY_PATH=/srv/nvml"
    drop_in.write_text(f"[Service]\nEnvironment={said}\n")
    driver = root / "srv/nvml/libnvidia-ml.so.1"
    driver.parent.mkdir(exist_ok=True)
    compile_library(HERE / "nvml_stand_in.c", driver)
    return token, drop_in, driver


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

    def one(self, part: str) -> int:
        return until(f"a process of {part}", lambda: self.pid_of(part), 60, self.box)

    def pid_of(self, module: str) -> int:
        """Of the watchdog's too: it is systemd's, and so not among the processes of supervisord."""
        return next((pid for pid in self.box.pids() if is_part(pid, module)), 0)

    def told(self) -> dict:
        return json.loads(self.box.must(ADAMCTL, "status", "--json", "--run", RUN))


def is_part(pid: int, part: str) -> bool:
    """A template has the command line of a trainer, and so has its copy; their names tell them apart."""
    try:
        template = Path(f"/proc/{pid}/comm").read_text().strip() == TEMPLATE
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return template if part == TEMPLATE else part in command and not template


def test_a_run_in_the_hands_of_systemd(box: Booted, hub: FakeHub, new_run) -> None:
    run = Installed(box)
    installed(run)
    a_home_that_is_read_only(box)
    began = time.monotonic()
    box.must("systemctl", "enable", "--now", "adam-trainer")
    assert box.must("systemctl", "is-active", "adam-trainer", "adam-watchdog").split() == ["active", "active"]
    step = run.trains_beyond(0)
    print(f"first step {time.monotonic() - began:.1f} s after systemctl start")
    until("an upload", lambda: hub.pushes, 120, box)
    print(f"uploaded {time.monotonic() - began:.1f} s after systemctl start, by the token of the credential")
    users = {Path(f"/proc/{run.one(part)}").stat().st_uid for part in (*PARTS, TEMPLATE)}
    assert len(users) == 1 and users != {0}, "all of them are the user adam's"
    step = template_killed(run, step)
    for part in PARTS:
        step = killed(run, part, step)
    until("a reading of the new probe", lambda: [gpu["temperature_c"] for gpu in run.told()["gpus"]] == [61], 30, box)
    frozen(run)
    stopped(run)
    switched_off(run)
    finished(run, hub, new_run)
    box.must(ADAMCTL, "systemd", "uninstall")
    assert not [path for path in (box.root / "etc/systemd/system").glob("adam*") if path.is_file()]


def installed(run: Installed) -> None:
    """As README.md says, into the places that are its default."""
    began, command = time.monotonic(), [f"{CHECKOUT}/bin/adamctl", "systemd", "install", "--config", run.given]
    print("\n" + run.box.must("env", "PYTHON=/usr/bin/python3", *command, timeout=1800))
    print(f"installed in {time.monotonic() - began:.0f} s")
    python = (run.box.root / "opt/adam/.venv/bin/python3").readlink()
    assert python == Path("/usr/bin/python3"), "a Python of the checkout's environment"


def a_home_that_is_read_only(box: Booted) -> None:
    """`--user NAME`: what xet writes does not go into that home, which it can't change under the watchdog's restrictions."""
    box.run("useradd", "--create-home", "somebody")  # a root that is kept has one
    unit = RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(box.root / "etc/systemd/system/adam-watchdog.service")
    properties = [f"--property={key}={value}" for key, value in unit["Service"].items() if key.startswith(RESTRICTS)]
    command = ["systemd-run", "--quiet", "--pipe", "--wait", "--property=User=somebody", *properties]
    assert "--property=ProtectHome=read-only" in command and "--property=MemoryDenyWriteExecute=yes" in command
    assert box.must(*command, "/opt/adam/.venv/bin/python", "-P", "-c", XET).strip() == "a session"
    assert not (box.root / "home/somebody/.cache").exists()


def template_killed(run: Installed, step: int) -> int:
    trainer = run.one("adam.trainer")
    os.kill(run.one(TEMPLATE), signal.SIGKILL)
    found = run.trains_beyond(max(step, run.step()))
    assert run.one("adam.trainer") == trainer, "its template's death disturbed the trainer"
    return found


def killed(run: Installed, part: str, step: int) -> int:
    pid, began = run.one(part), time.monotonic()
    os.kill(pid, signal.SIGKILL)
    until(f"another {part}", lambda: run.pid_of(part) not in (0, pid), 60, run.box)
    back = time.monotonic() - began
    found = run.trains_beyond(max(step, run.step()))
    print(f"{part} killed: another after {back:.1f} s, the next step after {time.monotonic() - began:.1f} s")
    return found


def frozen(run: Installed) -> None:
    pid, trainer, began = run.one("adam.watchdog"), run.one("adam.trainer"), time.monotonic()
    os.kill(pid, signal.SIGSTOP)
    until("another watchdog by WatchdogSec", lambda: run.pid_of("adam.watchdog") not in (0, pid), 90, run.box)
    print(f"a frozen watchdog was replaced after {time.monotonic() - began:.1f} s")
    run.trains_beyond(run.step())
    assert run.one("adam.trainer") == trainer, "the new watchdog disturbed a living trainer"


def stopped(run: Installed) -> None:
    run.box.must("systemctl", "stop", "adam-trainer")
    assert run.state() == "stopped"
    status = run.told()
    assert status["checkpoint"]["step"] == status["step"] == run.step(), "the last step was not saved"
    assert not run.pid_of("adam.trainer") and run.pid_of("adam.watchdog")
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


def finished(run: Installed, hub: FakeHub, new_run) -> None:
    until("finished", lambda: run.state() == "finished", 600, run.box)
    until(
        "the unit ends",
        lambda: run.box.run("systemctl", "is-active", "adam-trainer").stdout.strip() == "inactive",
        60,
        run.box,
    )
    last = list_checkpoints(run.paths.checkpoints)[-1].name
    assert f"state/{last}/MANIFEST.json" in hub.files and run.told()["upload"]["state"] == last
    assert TOKEN not in run.logs() + run.box.must("journalctl", "--no-pager", "-u", "adam-*")
    alerts = (run.paths.root / "told.txt").read_text()
    assert f"{STEPS} steps trained" in alerts and "SIGKILL" in alerts
    other = new_run("undisturbed", steps=STEPS, config=PLAIN_CONFIG)
    other.adamctl("up", "--wait", timeout=1800)
    assert run.losses() == other.losses() and len(run.losses()) == STEPS
    assert run.final_state() == other.final_state()
    print(
        f"{STEPS} steps, {len(run.rows())} rows: losses and the last state's SHA-256 are those of a run without systemd"
    )
