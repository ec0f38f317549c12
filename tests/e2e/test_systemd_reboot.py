"""Under a real systemd without polkit: the run's user may not restart the machine, asks for it, and gets it within root's bounds.

`bin/test --campaign -s tests/e2e/test_systemd_reboot.py`, as test_systemd_boot.py: two minutes. The units are the shipped ones, but for where
Python is; the watchdog's runs nothing, and who asks has its restrictions.
"""

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from booted import CHECKOUT, Booted, make_root, until, why_not

from adam.contract import schema
from adam.contract.reboots import Reboots
from adam.daemon.unit_files import REBOOTS

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]
RUN = "/var/lib/adam"
PER_DAY = 4  # as adam-reboot.service says
ASK = f"""
from pathlib import Path
from adam.contract.paths import RunPaths
from adam.watchdog.reboots import RebootJournal
journal = RebootJournal(RunPaths(Path("{RUN}")))
journal.ask(120, "GPU 0 fell off the bus")
print(journal.trouble or len(journal.seen()))
"""
TRAINER = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
OF_A_PROGRAM = re.compile(r"(?m)^(Exec|Type=|NotifyAccess=|WatchdogSec=|LoadCredential=).*\n")


@pytest.fixture
def box(tmp_path) -> Iterator[Booted]:
    kept = os.environ.get("ADAM_DEBIAN_ROOT")
    root = Path(kept) if kept else tmp_path / "root"
    if not (root / "usr/lib/systemd/systemd").exists():
        make_root(root)
    for place in (RUN, "/var/log/adam-reboot"):
        shutil.rmtree(root / place.lstrip("/"), ignore_errors=True)
    tidy(root)
    box = Booted(root, Path(sys.prefix))
    install(root)
    box.boot()
    try:
        yield box
    finally:
        box.end()
        tidy(root)


def tidy(root: Path) -> None:
    """No unit is left to another test in a root that is kept."""
    for unit in (root / "etc/systemd/system").glob("**/adam-*"):
        if unit.is_dir():
            shutil.rmtree(unit)
        else:
            unit.unlink()


def install(root: Path) -> None:
    units = root / "etc/systemd/system"
    for name in (*REBOOTS, "adam-watchdog.service"):
        text = (CHECKOUT / "systemd" / name).read_text().replace("/opt/adam/.venv/bin/python", sys.executable)
        text = text.replace("Environment=", f"Environment=PYTHONPATH={CHECKOUT / '.ide'} ")
        if name == "adam-watchdog.service":
            text = OF_A_PROGRAM.sub("", text).replace(
                "[Service]\n", "[Service]\nType=exec\nExecStart=/bin/sleep infinity\n"
            )
        (units / name).write_text(text)
    (units / "adam-trainer.service").write_text(TRAINER)


def ask(box: Booted) -> None:
    restricted = [f"--property={word}" for word in ("User=adam", "ProtectKernelTunables=yes", "NoNewPrivileges=yes")]
    # As the watchdog's unit says it: behind ProtectKernelTunables=, /proc has the host's.
    boot = box.must("systemd-id128", "boot-id").strip()
    said = (f"--setenv=PYTHONPATH={CHECKOUT / '.ide'}", f"--setenv=ADAM_BOOT_ID={boot}")
    done = box.run("systemd-run", "--quiet", "--pipe", "--wait", *restricted, *said, sys.executable, "-P", "-c", ASK)
    assert done.stdout.strip().isdigit() or not done.returncode, done.stdout + done.stderr


def test_a_restart_is_asked_for_by_a_user_and_done_by_root_within_its_bounds(box: Booted) -> None:
    box.run("useradd", "--system", "adam")  # a root that is kept has one
    box.must("install", "-d", "-o", "adam", "-g", "adam", "-m", "750", RUN, f"{RUN}/run")
    box.must("systemctl", "enable", "--now", "adam-watchdog")
    assert box.must("systemctl", "is-active", "adam-reboot.path").strip() == "active"
    assert "denied" in box.run("runuser", "-u", "adam", "--", "systemctl", "reboot").stderr
    ask(box)
    until("the refusal", lambda: "adam-trainer.service is not enabled" in box.journal(), 30, box)
    box.must("systemctl", "enable", "adam-trainer")
    for _ in range(PER_DAY):
        began = time.monotonic()
        ask(box)
        assert box.restarts(60), box.journal()
        print(f"off {time.monotonic() - began:.1f} s after it was asked for")
        box.boot()
        assert box.must("systemctl", "is-active", "adam-reboot.path", "adam-trainer").split() == ["active", "active"]
    ask(box)
    until("the bound", lambda: "refused: the bounds of this unit (4 a day" in box.journal(), 30, box)
    journal = box.root / "var/log/adam-reboot/reboots.json"
    found = schema.load(journal, Reboots)
    assert found is not None and len(found.asked) == PER_DAY and journal.parent.stat().st_mode & 0o777 == 0o700
    box.must("systemctl", "stop", "adam-watchdog")
    assert box.run("systemctl", "is-active", "adam-reboot.path").stdout.strip() == "inactive"
