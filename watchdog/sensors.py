"""What the machine says of itself: the GPUs through the probe process, the host through psutil. Nothing here can block."""

import math
import selectors
from pathlib import Path

import msgspec
import psutil

from adam.contract.durable import free_bytes
from adam.contract.metrics import gpu_cells
from adam.contract.records import Gpu
from adam.watchdog.child import LineChild, Quiet
from adam.watchdog.gpu_news import Told, news_of, ration
from adam.watchdog.journal import Journal
from adam.watchdog.policy_power import Orders
from adam.watchdog.probe_words import Held, Reading, Xid

STALE_TIMES = 3.0  # intervals without a reading after which the probe is taken to hang
STALE_LEAST_S = 15.0
NONE_FIRST_S, NONE_LONGEST_S = 60.0, 3600.0
DEVICE = Path("/dev/nvidiactl")
RESTORE_S = 5.0


def pause_s(deaths: int) -> float:
    return float(min(300.0, 5.0 * 2 ** (deaths - 1)))


def none_s(times: int, *, device: bool) -> float:
    """Seconds until a driver is looked for again, that was not there `times` times in a row.

    `device`: its device file is there, so it is being loaded or exchanged, or may not be asked: a GPU must not train unseen for long.
    """
    return NONE_FIRST_S if device else min(NONE_LONGEST_S, NONE_FIRST_S * 2.0 ** min(times - 1, 60))


class GpuSensors:
    """The newest readings of the probe. `state` is ok, none (no NVIDIA driver) or unknown."""

    def __init__(
        self,
        interval: float,
        selector: selectors.BaseSelector,
        journal: Journal,
        stderr: int,
        power: Orders | None = None,
    ) -> None:
        arguments = ["adam.watchdog.probe", "--interval", str(interval)]
        arguments += ["--power", msgspec.json.encode(power).decode()] if power is not None else []
        self._child = LineChild(arguments, selector, pause_s, stderr)
        self._caps = power is not None and power.rules.floor_w > 0
        self._stale_s = max(STALE_LEAST_S, STALE_TIMES * interval)
        self._journal = journal
        self._quiet = Quiet()
        self.state, self.gpus = "unknown", tuple[Gpu, ...]()
        self.fault, self.lost = "", tuple[int, ...]()  # as in Reading
        self._xids: dict[int, Xid] = {}
        self._told = ("", "")
        self._last = Reading("unknown")
        self._rationed: dict[str, Told] = {}
        self._held: tuple[Held, ...] = ()
        self._nones, self._none_until = 0, 0.0

    @property
    def pid(self) -> int:
        return self._child.pid

    def cells(self) -> dict[str, str]:
        """Cells of a row of `metrics.csv`."""
        return gpu_cells(self.gpus)

    @property
    def xids(self) -> tuple[Xid, ...]:
        """The last error of each GPU that had one."""
        return tuple(self._xids.values())

    def attend(self, now: float) -> None:
        """Hear the probe; end one that hangs; start one where it is time."""
        self._quiet.look(now)
        pid = self._child.pid
        for line in self._child.lines(now):
            self._quiet.heard()
            self._hear(msgspec.json.decode(line, type=Reading), now)
        if pid and not self._child.pid and self.state == "ok":
            self._unknown("the probe died")
        if self._child.pid and self._quiet.seconds > self._stale_s:
            self._quiet.heard()
            self._child.kill()
            self._unknown("NVML does not answer")
        if self._child.start_if_due(now):
            self._quiet.heard()
        if self.state == "none":
            self._child.start_at = max(self._child.start_at, self._none_until)

    @property
    def note(self) -> str:
        """Which GPUs are held down; empty: none is."""
        return "; ".join(
            f"GPU {held.gpu} is held down to {held.watts:.0f} W (of {held.of:.0f} W): it was getting too hot"
            for held in self._held
        )

    def end(self, now: float) -> None:
        """A probe that may have lowered a limit restores it first; where it has just died, another one does."""
        if self._caps:
            if self._held:
                self._child.start_if_due(math.inf)
            self._child.finish(now, RESTORE_S)
        else:
            self._child.end(now)

    def _hear(self, reading: Reading, now: float) -> None:
        self._nones = self._nones + 1 if reading.sensors == "none" else 0
        if self._nones:
            self._none_until = now + none_s(self._nones, device=DEVICE.exists())
        self._become(reading)
        self._xids |= {xid.gpu: xid for xid in reading.xids}
        self._held = reading.held if reading.sensors == "ok" else self._held
        self._rationed, news = ration(self._rationed, news_of(self._last, reading), now)
        for item in news:
            self._journal.tell("gpu", item.text, **item.facts)
        # What was known of the chips outlives a probe that died, or that did not answer for a while.
        self._last = reading if reading.sensors == "ok" else msgspec.structs.replace(self._last, fault=reading.fault)

    def _unknown(self, why: str) -> None:
        self._become(Reading("unknown", why=why))

    def _become(self, reading: Reading) -> None:
        self.state, self.gpus, self.fault, self.lost = reading.sensors, reading.gpus, reading.fault, reading.lost
        if (reading.sensors, reading.fault) != self._told:
            self._told = reading.sensors, reading.fault
            why = f" ({reading.why})" if reading.why else ""
            self._journal.tell("sensors", f"GPU sensors: {reading.sensors}{why}", sensors=reading.sensors)


class HostSensors:
    """Load, memory and free disk, read at most every `interval` seconds."""

    def __init__(self, interval: float, disk: Path) -> None:
        self._interval, self._disk = interval, disk
        self._read_at = 0.0
        self._cells: dict[str, str] = {}
        psutil.cpu_percent()  # the first call only starts the count

    def cells(self, now: float) -> dict[str, str]:
        """Cells of a row of `metrics.csv`."""
        if now - self._read_at >= self._interval:
            self._read_at = now
            self._cells = {
                "cpu_percent": f"{psutil.cpu_percent():.1f}",
                "ram_gb": f"{psutil.virtual_memory().used / 1e9:.2f}",
                "disk_free_gb": f"{free_bytes(self._disk) / 1e9:.2f}",
            }
        return self._cells
