"""The power limits of the GPUs, as the probe changes them: what was found is written down before it is changed, so that the next probe of
this run restores it where this one, or the whole machine of processes, was killed. A reboot restores it too: then the file means nothing.

A limit that somebody else has set meanwhile is left alone from then on.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pynvml

from adam.contract import schema
from adam.contract.clock import boot_id
from adam.contract.errors import DataError
from adam.contract.records import Gpu, PowerChange, PowerFile
from adam.watchdog.policy_power import Cap, CapRules, Orders, room_of, wanted_limit
from adam.watchdog.probe_words import Held, PowerWord


class Power:
    """The limits of all GPUs. No call raises NVMLError: what can't be slowed down must still be seen to be hot."""

    def __init__(self, orders: Orders) -> None:
        self._path, self._rules = Path(orders.file), orders.rules
        self._changed = read_changes(self._path)
        self._since: dict[str, float] = {}
        self._limits: dict[str, int] = {}  # as last seen or set
        self._left_alone: set[str] = set()

    @property
    def active(self) -> bool:
        """False where nothing is to be lowered, nor to be restored."""
        return bool(self._rules.floor_w or self._changed)

    def attend(self, gpus: tuple[Gpu, ...], now: float) -> tuple[PowerWord, ...]:
        """Bring each limit to where it belongs; what is to be told of it."""
        if not self.active:
            return ()
        return tuple(word for gpu in gpus if (word := self._attend_one(gpu, now)) is not None)

    @property
    def held(self) -> tuple[Held, ...]:
        """The GPUs whose limit is lower than it was found."""
        limits = {uuid: self._limits.get(uuid, change.ours[-1]) for uuid, change in self._changed.items()}
        return tuple(
            Held(change.gpu, limits[uuid] / 1000, change.original / 1000)
            for uuid, change in self._changed.items()
            if limits[uuid] < change.original
        )

    def restore(self) -> None:
        """All limits as they were found, also where the driver has refused something before."""
        self._rules = CapRules()
        self._left_alone.clear()
        for change in list(self._changed.values()):
            self._attend_one(Gpu(index=change.gpu), 0.0)

    def _attend_one(self, gpu: Gpu, now: float) -> PowerWord | None:
        uuid = f"index {gpu.index}"
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(gpu.index)
            uuid = _uuid(handle, uuid)
            if uuid in self._left_alone:
                return None
            limit = pynvml.nvmlDeviceGetPowerManagementLimit(handle)
            self._limits[uuid] = limit
            known = self._changed.get(uuid)
            if known is not None and limit not in (*known.ours, known.original):
                self._left_alone.add(uuid)
                self._forget(uuid)
                return PowerWord(gpu.index, "foreign", limit / 1000)
            if known is not None:
                self._since.setdefault(uuid, now)  # a probe before us did it, perhaps just now
            least, _ = pynvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)
            original = known.original if known is not None else limit
            cap = Cap(original / 1000, limit / 1000, least / 1000, self._since.get(uuid))
            wanted = wanted_limit(self._rules, cap, room_of(self._rules.heat, gpu), now)
            # Whole watts: what is read back is then what was set. The chip's least may be none.
            wanted_mw = min(original, max(least, 1000 * round(wanted)))
            return self._change(handle, uuid, PowerChange(gpu.index, original, (limit, wanted_mw)), now)
        except pynvml.NVMLError as error:
            self._left_alone.add(uuid)
            return PowerWord(gpu.index, "refused", why=str(error))

    def _change(self, handle: Any, uuid: str, change: PowerChange, now: float) -> PowerWord | None:
        original, (limit, wanted) = change.original, change.ours
        if abs(wanted - original) < 1000:
            wanted = original
        if wanted == limit:
            if limit == original:
                self._forget(uuid)  # restored; a kill came before this note
            return None
        if wanted != original:  # the note that is there says that too: a full disk must not keep it back
            try:
                self._note({**self._changed, uuid: PowerChange(change.gpu, original, (limit, wanted))})
            except OSError as error:
                return PowerWord(change.gpu, "unwritten", limit / 1000, original / 1000, error.strerror or str(error))
        pynvml.nvmlDeviceSetPowerManagementLimit(handle, wanted)
        self._limits[uuid] = wanted
        self._since[uuid] = now
        if wanted == original:
            self._forget(uuid)
        what = "restored" if wanted == original else "lowered" if wanted < limit else "raised"
        return PowerWord(change.gpu, what, wanted / 1000, original / 1000)

    def _forget(self, uuid: str) -> None:
        if uuid in self._changed:
            # A full disk keeps the note: whoever reads it finds a limit that is as it should be, and forgets it then.
            with suppress(OSError):
                self._note({name: change for name, change in self._changed.items() if name != uuid})

    def _note(self, changed: dict[str, PowerChange]) -> None:
        """Durably: before a limit is changed."""
        schema.save(self._path, PowerFile(boot_id=boot_id(), gpus=changed))
        self._changed = changed


def _uuid(handle: Any, otherwise: str) -> str:
    try:
        return str(pynvml.nvmlDeviceGetUUID(handle))
    except pynvml.NVMLError:
        return otherwise


def read_changes(path: Path) -> dict[str, PowerChange]:
    """What a probe before this one has changed on this boot."""
    try:
        found = schema.load(path, PowerFile)
    except (DataError, OSError):
        return {}  # torn by a power cut, which has restored all limits too; and no note blinds the sensors
    return found.gpus if found is not None and found.boot_id == boot_id() else {}
