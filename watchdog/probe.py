"""The NVML probe: a process of its own, because NVML's calls can block for ever.

    python -P -m adam.watchdog.probe --interval SECONDS --parent PID

Writes a line of JSON to stdout at each interval: `{"sensors":"ok","gpus":[…]}`. Where there is no NVIDIA driver it writes
`{"sensors":"none"}` and ends; where the driver does not answer as it should, `{"sensors":"unknown","why":…}` and ends.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pynvml

from adam.contract.errors import run_main
from adam.contract.process import die_with_parent
from adam.contract.records import Gpu
from adam.watchdog.probe_words import Reading

_NONE = {pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED, pynvml.NVML_ERROR_NO_PERMISSION}


def read_gpu(index: int) -> Gpu:
    """One GPU; what it does not support is None. Raises NVMLError where it is lost."""
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = _maybe(pynvml.nvmlDeviceGetMemoryInfo, handle)
    use = _maybe(pynvml.nvmlDeviceGetUtilizationRates, handle)
    power = _maybe(pynvml.nvmlDeviceGetPowerUsage, handle)
    return Gpu(
        index=index,
        name=_maybe(pynvml.nvmlDeviceGetName, handle) or "",
        temperature_c=_maybe(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        margin_c=_maybe(pynvml.nvmlDeviceGetMarginTemperature, handle),
        power_w=power / 1000 if power is not None else None,
        utilisation=use.gpu if use is not None else None,
        memory_used_bytes=memory.used if memory is not None else None,
        memory_total_bytes=memory.total if memory is not None else None,
    )


def _maybe(call: Callable[..., Any], *arguments: Any) -> Any:
    """The value, None where this chip, driver or library does not offer it."""
    try:
        return call(*arguments)
    except (pynvml.NVMLError_NotSupported, pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_InvalidArgument):
        return None


def read_all() -> Reading:
    """Every GPU. Raises NVMLError."""
    return Reading("ok", tuple(read_gpu(index) for index in range(pynvml.nvmlDeviceGetCount())))


def say(reading: Reading) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(reading) + b"\n")
    sys.stdout.buffer.flush()


def probe(interval: float) -> int:
    try:
        pynvml.nvmlInit()
        while True:
            say(read_all())
            time.sleep(interval)
    except pynvml.NVMLError as error:
        say(Reading("none" if error.value in _NONE else "unknown", why=str(error)))
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="probe", description=__doc__.splitlines()[0])
    parser.add_argument("--interval", type=float, required=True, help="seconds between two readings")
    parser.add_argument("--parent", type=int, required=True, help="end when this process does")
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    return probe(arguments.interval)


if __name__ == "__main__":
    sys.exit(run_main("probe", main))
