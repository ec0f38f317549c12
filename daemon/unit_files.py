"""What `adamctl systemd install` writes: the shipped units with the places and the user of this machine. Pure."""

import re
from pathlib import Path

import msgspec

from adam.contract.errors import UsageError

PREFIX, RUN, USER = "/opt/adam", "/var/lib/adam", "adam"  # what the shipped units say
UNITS = ("adam-watchdog.service", "adam-trainer.service", "adam-forge.service")
HEARS = "adam-reboot.path"
REBOOTS = (HEARS, "adam-reboot.service")  # only where people ask for them
PLAIN = re.compile(r"[\w./@+-]+")  # anything else has a meaning of its own in a unit


class Places(msgspec.Struct, frozen=True):
    """Where Adam and its one run live, and as whom they run. Paths are absolute."""

    prefix: Path
    run: Path
    user: str


def check_places(places: Places) -> None:
    """Raise UsageError where a unit could not say these places."""
    for what, text in (("--prefix", str(places.prefix)), ("--run", str(places.run)), ("--user", places.user)):
        if not PLAIN.fullmatch(text):
            raise UsageError(f"{what} {text!r} has characters that a systemd unit reads otherwise", "choose another")


def unit_text(shipped: str, places: Places) -> str:
    """A shipped unit for `places`. StateDirectory= is for /var/lib only: elsewhere the directory is the installer's."""
    text = shipped.replace(PREFIX, str(places.prefix)).replace(RUN, str(places.run))
    text = text.replace(f"\nUser={USER}\n", f"\nUser={places.user}\n")
    if str(places.run) != RUN:
        text = re.sub(r"(?m)^StateDirectory.*\n", "", text)
    return text


def user_text(shipped: str, places: Places) -> str:
    """sysusers.d(5) for `places.user`."""
    return shipped.replace(RUN, str(places.run)).replace(f"u {USER} ", f"u {places.user} ")


def directory_text(shipped: str, places: Places, group: str) -> str:
    """tmpfiles.d(5) for the run directory."""
    return shipped.replace(RUN, str(places.run)).replace(f"{USER} {USER} -", f"{places.user} {group} -")
