"""The journal of reboots: `run/reboots.json`, written here, and answered by who is root (`adam-reboot.path`)."""

from adam.contract import schema
from adam.contract.clock import Stamp, stamp
from adam.contract.errors import DataError
from adam.contract.paths import RunPaths
from adam.contract.reboots import Reboot, Reboots
from adam.watchdog.policy_words import RebootSeen
from adam.watchdog.watched import Watched

MOST = 32  # that are remembered


class RebootJournal:
    """Asks, and says what was asked for. `trouble`: why it could not be; empty: it could."""

    def __init__(self, paths: RunPaths) -> None:
        self._path = paths.reboots
        self._file = Watched(self._load, paths.reboots)
        self.trouble = ""

    def _load(self) -> Reboots | None:
        try:
            return schema.load(self._path, Reboots) or Reboots()
        except DataError:
            return None

    def seen(self) -> tuple[RebootSeen, ...] | None:
        """All that were asked for, oldest first; None: that can't be read."""
        file = self._file.get()
        if file is None or not file.asked:
            return None if file is None else ()
        now = stamp()
        return tuple(_seen(item, now) for item in file.asked)

    def ask(self, step: int, why: str) -> None:
        """Durably: what can't be written down is not asked for, since the one is the other."""
        file = self._file.get()
        if file is None:
            return
        try:
            schema.save(self._path, Reboots(asked=(*file.asked, Reboot(stamp(), step, why))[-MOST:]))
            self.trouble = ""
        except OSError as error:
            self.trouble = f"no reboot is asked for: {self._path.name} can't be written: {error.strerror}"


def _seen(item: Reboot, now: Stamp) -> RebootSeen:
    return RebootSeen(item.stamp.age_s(now), item.step, item.stamp.boot_id == now.boot_id)
