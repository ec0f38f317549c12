"""The NVML probe: a process of its own, because NVML's calls can block for ever.

    python -P -m adam.watchdog.probe --interval SECONDS --parent PID [--power JSON]

Writes a line of JSON to stdout at each interval, and at once when the driver reports an error: `{"sensors":"ok","gpus":[…]}`. Where
there is no NVIDIA driver it writes `{"sensors":"none"}` and ends; where the driver does not answer as it should,
`{"sensors":"unknown","why":…}` and ends.

Where a power cap is configured it lowers and restores the GPUs' limits too (see `power`), and restores them when its stdin is closed.
"""

import argparse
import select
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pynvml

from adam.contract.errors import run_main
from adam.contract.process import die_with_parent
from adam.contract.records import Gpu
from adam.watchdog.policy_power import Orders
from adam.watchdog.power import Power
from adam.watchdog.probe_words import Reading, Xid
from adam.watchdog.xid import XidWatch

_NONE = {pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED, pynvml.NVML_ERROR_NO_PERMISSION}
_FAULTS = {
    pynvml.NVML_ERROR_GPU_IS_LOST: "lost",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "mismatch",
    pynvml.NVML_ERROR_RESET_REQUIRED: "reset",
}
_NOT_OFFERED = {
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_INVALID_ARGUMENT,
    pynvml.NVML_ERROR_NO_PERMISSION,
}
# What the driver wants done (since 565; https://docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt, "recovery action").
_RECOVERY = {
    pynvml.NVML_GPU_RECOVERY_ACTION_NONE: "",
    pynvml.NVML_GPU_RECOVERY_ACTION_GPU_RESET: "reset",
    pynvml.NVML_GPU_RECOVERY_ACTION_NODE_REBOOT: "reboot",
    pynvml.NVML_GPU_RECOVERY_ACTION_DRAIN_P2P: "drain of peer traffic",
    pynvml.NVML_GPU_RECOVERY_ACTION_DRAIN_AND_RESET: "drain and reset",
    pynvml.NVML_GPU_RECOVERY_ACTION_RECOVER_IMEX_DOMAIN: "recovery of its IMEX domain",
    pynvml.NVML_GPU_RECOVERY_ACTION_BUS_RESET: "bus reset",
    pynvml.NVML_GPU_RECOVERY_ACTION_SYSTEM_REBOOT: "reboot",
}
# Why clocks are held down, in NVML's words.
_CLOCKS = {
    pynvml.nvmlClocksEventReasonGpuIdle: "idle",
    pynvml.nvmlClocksEventReasonApplicationsClocksSetting: "setting",
    pynvml.nvmlClocksEventReasonSwPowerCap: "sw_power_cap",
    pynvml.nvmlClocksEventReasonHwSlowdown: "hw_slowdown",
    pynvml.nvmlClocksEventReasonSyncBoost: "sync_boost",
    pynvml.nvmlClocksEventReasonSwThermalSlowdown: "sw_thermal_slowdown",
    pynvml.nvmlClocksEventReasonHwThermalSlowdown: "hw_thermal_slowdown",
    pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: "hw_power_brake",
    pynvml.nvmlClocksEventReasonDisplayClockSetting: "display",
}

SLICE_S = 0.5  # of a wait, where the end has to be seen soon


def read_gpu(index: int) -> Gpu:
    """One GPU; what it does not support is None. Raises NVMLError where it is lost."""
    handle = _handle(index)
    memory = _maybe(pynvml.nvmlDeviceGetMemoryInfo, handle)
    use = _maybe(pynvml.nvmlDeviceGetUtilizationRates, handle)
    power = _maybe(pynvml.nvmlDeviceGetPowerUsage, handle)
    limit = _maybe(pynvml.nvmlDeviceGetPowerManagementLimit, handle)
    clocks = _maybe(pynvml.nvmlDeviceGetCurrentClocksEventReasons, handle)
    return Gpu(
        index=index,
        name=_maybe(pynvml.nvmlDeviceGetName, handle) or "",
        temperature_c=_offered(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        margin_c=_maybe(pynvml.nvmlDeviceGetMarginTemperature, handle),
        power_w=power / 1000 if power is not None else None,
        power_limit_w=limit / 1000 if limit is not None else None,
        utilisation=use.gpu if use is not None else None,
        memory_used_bytes=memory.used if memory is not None else None,
        memory_total_bytes=memory.total if memory is not None else None,
        memory_temperature_c=_maybe(_memory_temperature, handle),
        recovery=_RECOVERY.get(_maybe(_field, handle, pynvml.NVML_FI_DEV_GET_GPU_RECOVERY_ACTION)),
        clocks=tuple(word for bit, word in _CLOCKS.items() if clocks & bit) if clocks is not None else None,
        uncorrected=_maybe(
            pynvml.nvmlDeviceGetTotalEccErrors,
            handle,
            pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED,
            pynvml.NVML_VOLATILE_ECC,
        ),
    )


def _handle(index: int) -> Any:
    try:
        return pynvml.nvmlDeviceGetHandleByIndex(index)
    except pynvml.NVMLError_Unknown:
        # What newer drivers say of a GPU that was there and has fallen off the bus.
        raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST) from None


def _memory_temperature(handle: Any) -> int | None:
    return _field(handle, pynvml.NVML_FI_DEV_MEMORY_TEMP) or None  # 0: no such sensor, on some drivers


def _field(handle: Any, field: int) -> int | None:
    value = pynvml.nvmlDeviceGetFieldValues(handle, [field])[0]
    return int(value.value.uiVal) if value.nvmlReturn == pynvml.NVML_SUCCESS else None


def _offered(call: Callable[..., Any], *arguments: Any) -> Any:
    """The value, None where this chip, driver or library does not offer it."""
    try:
        return call(*arguments)
    except pynvml.NVMLError as error:
        if error.value in _NOT_OFFERED:
            return None
        raise


def _maybe(call: Callable[..., Any], *arguments: Any) -> Any:
    """The value, None where it can't be had just now: only what is wrong with the whole GPU may keep its temperature from being seen."""
    try:
        return call(*arguments)
    except pynvml.NVMLError as error:
        if error.value in _FAULTS:
            raise
        return None


def read_all() -> Reading:
    """Every GPU. Raises NVMLError where the driver is not as it should be."""
    gpus, lost = [], []
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            gpus.append(read_gpu(index))
        except pynvml.NVMLError_GpuIsLost:
            lost.append(index)
        except pynvml.NVMLError_ResetRequired:
            gpus.append(Gpu(index=index, recovery="reset"))
    if lost and not gpus:
        return Reading("unknown", why="GPU is lost", lost=tuple(lost), fault="lost")
    return Reading("ok", tuple(gpus), lost=tuple(lost))


def say(reading: Reading) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(reading) + b"\n")
    sys.stdout.buffer.flush()


def probe(interval: float, orders: Orders | None) -> int:
    found: tuple[Xid, ...] = ()  # since the last reading: a GPU that falls off the bus says so, and then nothing more
    try:
        pynvml.nvmlInit()
        xids, power = XidWatch(), Power(orders) if orders is not None else None
        while True:
            found = xids.found
            reading = msgspec.structs.replace(read_all(), xids=found)
            if reading.sensors != "ok":
                say(reading)
                return 0
            if power is not None:
                words = power.attend(reading.gpus, time.monotonic())
                reading = msgspec.structs.replace(reading, power=words, held=power.held)
            say(reading)
            if power is None or not power.active:
                xids.wait(interval)
            elif wait_for_the_end(xids, interval):
                power.restore()
                return 0
    except pynvml.NVMLError as error:
        sensors = "none" if error.value in _NONE else "unknown"
        say(Reading(sensors, why=str(error), fault=_FAULTS.get(error.value, ""), xids=found))
    return 0


def wait_for_the_end(xids: XidWatch, seconds: float) -> bool:
    """Wait as `xids` does; True, soon, where stdin was closed."""
    until = time.monotonic() + seconds
    while True:
        xids.wait(max(0.0, min(SLICE_S, until - time.monotonic())))
        if select.select([sys.stdin], [], [], 0)[0]:
            return True
        if xids.found or time.monotonic() >= until:
            return False


def main() -> int:
    parser = argparse.ArgumentParser(prog="probe", description=__doc__.splitlines()[0])
    parser.add_argument("--interval", type=float, required=True, help="seconds between two readings")
    parser.add_argument("--parent", type=int, required=True, help="end when this process does")
    parser.add_argument("--power", default="", help="what may be done to the power limits: Orders, as JSON")
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    orders = msgspec.json.decode(arguments.power, type=Orders) if arguments.power else None
    return probe(arguments.interval, orders)


if __name__ == "__main__":
    sys.exit(run_main("probe", main))
