"""The checks of `adamctl doctor` about a run that waits for a GPU, and about who would restart the machine for it."""

from collections.abc import Iterator

from adam.contract.config import Config
from adam.contract.config_file import load_config
from adam.contract.errors import AdamError
from adam.contract.paths import RunPaths
from adam.contract.states import RunState
from adam.daemon.doctor_words import Finding, ok, warn
from adam.daemon.processes import read_status, watchdog_lives
from adam.daemon.systemd import ETC
from adam.daemon.unit_files import HEARS


def check_gpu_wait(paths: RunPaths) -> Iterator[Finding]:
    """What the run waits for; whether a reboot that it asks for would come. Nothing where neither is so."""
    status = read_status(paths)
    if status is not None and watchdog_lives(status) and status.state == RunState.WAITING:
        yield warn(f"the run waits: {status.reason}", "it goes on by itself")
    source = paths.lock if paths.lock.exists() else paths.config
    try:
        config = load_config(source) if source.exists() else Config()
    except AdamError:
        return  # the check of the disk says so
    if config.watchdog.reboot:
        yield check_reboot(paths, config.watchdog.reboots_per_day)


def check_reboot(paths: RunPaths, per_day: int) -> Finding:
    """Somebody who is root hears it where this very run asks."""
    unit = ETC / "systemd/system" / HEARS
    if unit.exists() and f"\nPathChanged={paths.reboots}\n" in unit.read_text():
        return ok(f"the machine is restarted where no GPU can be trained on, at most {per_day} times a day ({HEARS})")
    return warn(
        f"watchdog.reboot is on, and no {HEARS} hears {paths.reboots}",
        "adamctl systemd install --reboot; without it the run waits for people",
    )
