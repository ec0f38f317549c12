"""The real trainer, to which something happens.

    python faulty_trainer.py [--poison POSITION] [--do STEP:KIND]… [--slow SECONDS] [--gpu] --run DIR

--poison: the loss of whatever batch holds the data at POSITION is not a number. --do: KIND (see HARM) happens once, behind STEP; when it
did is in run/fault-STEP (seconds of CLOCK_BOOTTIME). --slow: each update takes so much longer. --gpu: it takes itself
to be on a GPU, which is there as long as the stand-in NVML says so; one that falls off the bus makes the next launch fail.
"""

import argparse
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from adam.contract.clock import boottime_ns
from adam.contract.errors import run_main
from adam.trainer.__main__ import main
from adam.trainer.host import prepare
from adam.trainer.order import DataOrder


def raise_it(error: Exception) -> None:
    raise error


def out_of_gpu_memory(_loop: object) -> None:
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB")


def deadlock(_loop: object) -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def keep_the_interpreter(_loop: object) -> None:
    """A C call that does not come back and keeps the interpreter's lock. No signal breaks it off, as one breaks off a sleep."""
    mutex, libc = ctypes.create_string_buffer(64), ctypes.PyDLL(None)  # zeros: an ordinary mutex that is free
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)


def spoil(loop: object) -> None:
    """Weights that give high losses from now on, as a bad batch can leave them."""
    import torch

    with torch.no_grad():
        for parameter in loop.model.parameters():  # type: ignore[attr-defined]
            parameter.mul_(6)


def flip(loop: object) -> None:
    """One bit of one gradient is wrong, once, as a chip may have it."""
    import torch

    parameter = next(loop.model.parameters())  # type: ignore[attr-defined]

    def wrong(gradient: torch.Tensor) -> torch.Tensor:
        handle.remove()
        bits = gradient.clone()
        bits.view(-1).view(torch.int32)[0] ^= 1
        return bits

    handle = parameter.register_hook(wrong)


HARM: dict[str, Callable[[object], object]] = {
    "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "segv": lambda _: ctypes.string_at(0),
    "abort": lambda _: os.abort(),
    "exit-1": lambda _: os._exit(1),
    "exit-2": lambda _: os._exit(2),
    "exception": lambda _: raise_it(RuntimeError("a fault of the code")),
    "memory": lambda _: raise_it(MemoryError()),
    "gpu-memory": out_of_gpu_memory,
    "gil": keep_the_interpreter,
    "deadlock": deadlock,
    "stop": lambda _: os.kill(os.getpid(), signal.SIGSTOP),
    "spoil": spoil,
    "flip": flip,
}


def poison(position: int) -> None:
    from adam.trainer.model.lm import MambaLM

    sample_at, loss, drawn = DataOrder.sample_at, MambaLM.loss, []

    def watched(self: DataOrder, asked: int) -> int:
        if asked == position:
            drawn.append(asked)
        return sample_at(self, asked)

    def poisoned(self: MambaLM, *batch: object) -> object:
        found = loss(self, *batch)
        if drawn and self.training:
            drawn.clear()
            return found * float("nan")
        return found

    DataOrder.sample_at, MambaLM.loss = watched, poisoned


def harm(run: Path, kinds: dict[int, str], slow_s: float) -> None:
    from adam.trainer.loop import Loop

    update = Loop._update

    def harmed(self: Loop, position: object) -> object:
        step = position.step  # type: ignore[attr-defined]
        mark = run / "run" / f"fault-{step}"
        if step in kinds and not mark.exists():
            mark.write_text(f"{boottime_ns() / 1e9}")
            HARM[kinds[step]](self)
        time.sleep(slow_s)
        return update(self, position)  # type: ignore[arg-type]

    Loop._update = harmed  # type: ignore[method-assign, assignment]


def gpu_of_the_stand_in() -> None:
    """What CUDA would make of the GPU that NVML speaks of. The numbers come from the CPU."""
    import pynvml

    from adam.trainer import runtime
    from adam.trainer.loop import Loop

    choose, parts, update = runtime.choose_device, runtime.Runtime.parts, Loop._update

    def answers() -> int:
        """0, or NVML's error."""
        try:
            pynvml.nvmlInit()
            pynvml.nvmlDeviceGetTemperature(pynvml.nvmlDeviceGetHandleByIndex(0), pynvml.NVML_TEMPERATURE_GPU)
        except pynvml.NVMLError as error:
            return int(error.value)
        return 0

    def on_the_gpu(self: Loop, position: object) -> object:
        if answers() == pynvml.NVML_ERROR_GPU_IS_LOST:
            raise RuntimeError("CUDA error: unspecified launch failure")
        return update(self, position)  # type: ignore[arg-type]

    runtime.choose_device = lambda config, was_on: choose(config, was_on) if answers() else "cpu"
    runtime.Runtime.parts = lambda self: parts(self) | {"device": "cuda Stand-in"}  # type: ignore[method-assign]
    Loop._update = on_the_gpu  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--poison", type=int)
    parser.add_argument("--do", action="append", default=[])
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--gpu", action="store_true")
    arguments, sys.argv[1:] = parser.parse_known_args()
    prepare()  # before torch is imported
    if arguments.poison is not None:
        poison(arguments.poison)
    if arguments.gpu:
        gpu_of_the_stand_in()
    if arguments.do or arguments.slow:
        kinds = {int(step): kind for step, _, kind in (item.partition(":") for item in arguments.do)}
        harm(Path(sys.argv[sys.argv.index("--run") + 1]), kinds, arguments.slow)
    sys.exit(run_main("adam.trainer", main))
