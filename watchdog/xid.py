"""Xid errors, as NVML's event set reports them: waiting for the next reading is waiting for them."""

import ctypes
import time
from typing import Any

import pynvml

from adam.watchdog.probe_words import Xid

MOST_AT_ONCE = 64  # of one reading; a GPU that fails may report hundreds a second
SHORTEST_WAIT_S = 0.2  # … and must not keep this process, or the watchdog, busy


class XidWatch:
    """Listens to every GPU that offers it. `found` has what came during the last wait."""

    def __init__(self) -> None:
        self.found: tuple[Xid, ...] = ()
        self._listen()

    def _listen(self) -> None:
        self._set: Any = None
        self._indices: dict[int, int] = {}
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                self._register(index)
            except pynvml.NVMLError:
                continue  # a chip or driver without events, or a lost GPU: its readings tell

    def _register(self, index: int) -> None:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        if self._set is None:
            self._set = pynvml.nvmlEventSetCreate()
        pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, self._set)
        self._indices[_address(handle)] = index

    def wait(self, seconds: float) -> None:
        """For so long, or until the first error; then take all that are there."""
        began = time.monotonic()
        self.found = ()
        if not self._indices:
            time.sleep(seconds)
            return
        try:
            found = self._next(seconds)
            while found is not None and len(self.found) < MOST_AT_ONCE:
                self.found += (found,)
                found = self._next(0.0)
        except pynvml.NVMLError_GpuIsLost:
            self._listen()  # to the others: one GPU that is lost ends the waiting for all; the next reading tells which
        # A driver that says "none in time" before its time must not have us spin either.
        least = SHORTEST_WAIT_S if self.found else seconds
        time.sleep(max(0.0, least - (time.monotonic() - began)))

    def _next(self, seconds: float) -> Xid | None:
        """The next error; None where there was none in time. Raises NVMLError where the driver is gone."""
        try:
            data = pynvml.nvmlEventSetWait_v2(self._set, int(seconds * 1000))
        except pynvml.NVMLError_Timeout:
            return None
        return Xid(self._indices.get(_address(data.device), -1), data.eventData)


def _address(handle: Any) -> int:
    """What tells one handle of NVML from another."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
