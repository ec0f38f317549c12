"""A Debian with a real systemd in a container (systemd-nspawn), into which a checkout of Adam is bound read-only.

Never started on the host's own root. Its processes are seen from here with the host's pids, its files below `root`.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from real_run import wait_for

CHECKOUT = Path(__file__).resolve().parent.parent.parent
PACKAGES = "systemd,systemd-sysv,dbus,python3-venv,libexpat1,ca-certificates"
NAMESPACES = ("-m", "-u", "-i", "-n", "-p", "-C")
RESTARTED = 133  # exit code of systemd-nspawn --keep-unit
POWER_OFF = signal.SIGRTMIN + 4  # systemd(1)


def why_not() -> str:
    """Why there can be no container here; empty: there can."""
    if os.geteuid() != 0:
        return "needs root"
    missing = [name for name in ("debootstrap", "systemd-nspawn", "nsenter") if shutil.which(name) is None]
    return f"needs {', '.join(missing)}: apt-get install debootstrap systemd-container util-linux" if missing else ""


def make_root(root: Path) -> None:
    """A small Debian in `root`: 370 MB, a minute. $ADAM_DEBIAN_MIRROR names the mirror."""
    mirror = os.environ.get("ADAM_DEBIAN_MIRROR", "http://deb.debian.org/debian")
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(root), mirror]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=900)


class Booted:
    """One machine, off at first."""

    def __init__(self, root: Path, *bound: Path) -> None:
        """`bound`: what of the host is seen in it, read-only, beside the checkout, Python and what $ADAM_DEBIAN_BIND names (PATH:PATH)."""
        self.root = root
        self._process: subprocess.Popen[bytes] | None = None
        python = Path(sys.executable).resolve().parent.parent
        self._bound = [CHECKOUT, *bound] + ([] if python == Path("/usr") else [python])
        for path in self._bound:
            inside = root / path.relative_to("/")
            inside.mkdir(parents=True, exist_ok=True)
            for parent in inside.relative_to(root).parents:
                (root / parent).chmod(0o755)  # the way to it is open to the container's users, /root too
        self._bound += [Path(path) for path in os.environ.get("ADAM_DEBIAN_BIND", "").split(":") if path]

    def boot(self) -> None:
        """Switch it on, and wait until systemd has started everything."""
        command = ["systemd-nspawn", "-q", "-D", str(self.root), "--boot", "--register=no", "--keep-unit"]
        command += ["--machine=adam-test", "--console=read-only", *(f"--bind-ro={path}" for path in self._bound)]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wait_for("a booted systemd", lambda: self.run("systemctl", "is-system-running").stdout.strip() in UP, 60)

    def leader(self) -> int:
        """The container's systemd, as the host numbers it; 0 where it is off."""
        assert self._process is not None
        found = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(found[0]) if found else 0

    def pids(self) -> list[int]:
        """All processes in it, as the host numbers them; none where it is off. What of this machine may not be looked at is none of them."""
        if self._process is None or not (leader := self.leader()):
            return []
        inside, found = Path(f"/proc/{leader}/ns/pid").stat().st_ino, []
        for entry in Path("/proc").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                if entry.name.isdigit() and (entry / "ns/pid").stat().st_ino == inside:
                    found.append(int(entry.name))
        return found

    def run(self, *command: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """A command in the container, as its root."""
        enter = [
            "nsenter",
            "-t",
            str(self.leader() or -1),
            *NAMESPACES,
            "--",
            "env",
            "-i",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            *(f"{name}={value}" for name, value in os.environ.items() if name.startswith("PIP_")),
        ]
        return subprocess.run([*enter, *command], capture_output=True, text=True, timeout=timeout, check=False)

    def must(self, *command: str, timeout: float = 300) -> str:
        done = self.run(*command, timeout=timeout)
        assert done.returncode == 0, (
            f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.journal()}"
        )
        return done.stdout

    def journal(self) -> str:
        return self.run("journalctl", "--no-pager", "-n", "80", "-u", "adam-*").stdout

    def power_off(self) -> None:
        """As by the button: units are stopped in order."""
        os.kill(self.leader(), POWER_OFF)
        self._gone()

    def cut_power(self) -> None:
        """Everything ends at once, and what was in memory is gone."""
        os.kill(self.leader(), signal.SIGKILL)
        self._gone()

    def restarts(self, seconds: float) -> bool:
        """True where it is restarted from within, in so many seconds; it is off then."""
        assert self._process is not None
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        self._process = None
        assert code == RESTARTED, f"systemd-nspawn has ended with {code}"
        return True

    def _gone(self) -> None:
        assert self._process is not None
        self._process.wait(400)
        self._process = None

    def end(self) -> None:
        if self._process is not None:
            if leader := self.leader():
                os.kill(leader, signal.SIGKILL)
            self._gone()


UP = ("running", "degraded")


def until(what: str, condition: Callable[[], Any], seconds: float, box: Booted) -> Any:
    """As `wait_for`; tells the journal where it fails."""
    try:
        return wait_for(what, condition, seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{box.journal()}") from None
