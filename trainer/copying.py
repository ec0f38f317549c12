"""How a snapshot gets from where training has it into a slot, at the least cost to training.

CPU        a plain copy: training waits for it.
GPU        a copy on the device (15 ms for 33 GB), drained into the slot by a stream of its own while training goes on; where the device has
           no memory for that, drained from the weights themselves while they do not change: until the next optimizer step.

The slot's memory is registered with CUDA (pinned), since a copy into pageable memory is 20 times slower and blocks.
"""

import time
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from adam.contract.errors import AdamError
from adam.trainer.sums import bytes_of, device_sum, read_sum, tensor_sum

Tensors = dict[str, Tensor]
MARGIN_BYTES = 4 << 30  # of device memory that a copy on the device leaves to training


class Copier(Protocol):
    """Copies named tensors into buffers of the same names (flat uint8 tensors over the slot's memory)."""

    stall_s: float  # what the last copy cost training

    def start(self, tensors: Tensors, into: Tensors) -> None:
        """Begin; what the tensors hold now is what is copied."""

    def done(self) -> dict[str, str] | None:
        """The checksum of each tensor when all is in the buffers; None until then."""

    def before_update(self) -> None:
        """The tensors are about to change."""


class PlainCopy:
    """Of tensors in the host's memory."""

    def __init__(self) -> None:
        self.stall_s = 0.0
        self._sums: dict[str, str] | None = None

    def start(self, tensors: Tensors, into: Tensors) -> None:
        began = time.perf_counter()
        for name, tensor in tensors.items():
            into[name].copy_(bytes_of(tensor))
        # Of what training has, not of the copy: so an error of the copying shows too.
        self._sums = {name: tensor_sum(tensor) for name, tensor in tensors.items()}
        self.stall_s = time.perf_counter() - began

    def done(self) -> dict[str, str] | None:
        return self._sums

    def before_update(self) -> None:
        """Nothing is under way any more."""


class DeviceCopy:
    """Of tensors on a GPU, through a copy on the GPU where `spare` is given, else straight from the tensors."""

    def __init__(self, spare: Tensors | None) -> None:
        self.stall_s = 0.0
        self._spare = spare
        self._stream = torch.cuda.Stream()
        self._began, self._copied, self._drained = (torch.cuda.Event(enable_timing=True) for _ in range(3))
        self._sums: Tensor | None = None
        self._names: list[str] = []

    def start(self, tensors: Tensors, into: Tensors) -> None:
        here = torch.cuda.current_stream()
        self._names = list(tensors)
        self._began.record(here)
        source = self._copy_on_device(tensors) if self._spare is not None else dict(tensors)
        self._copied.record(here)
        self._stream.wait_event(self._copied)
        with torch.cuda.stream(self._stream):
            for name, tensor in source.items():
                into[name].copy_(bytes_of(tensor), non_blocking=True)
            # From where the copy was drained, by the device: host memory and the way there are checked when it is read.
            on_device = [source[name].cuda(non_blocking=True) for name in self._names]
            self._sums = torch.stack([device_sum(tensor) for tensor in on_device])
            self._drained.record(self._stream)

    def _copy_on_device(self, tensors: Tensors) -> Tensors:
        spare = self._spare or {}
        pairs = [(spare[name], tensor) for name, tensor in tensors.items() if name in spare]
        torch._foreach_copy_([copy for copy, _ in pairs], [tensor for _, tensor in pairs])
        # Host tensors (random generators) are small, and were cloned when they were read.
        return {name: spare.get(name, tensor) for name, tensor in tensors.items()}

    def done(self) -> dict[str, str] | None:
        if self._sums is None or not self._drained.query():
            return None
        self.stall_s = self._began.elapsed_time(self._copied) / 1000
        return dict(zip(self._names, map(read_sum, self._sums.cpu()), strict=True))

    def before_update(self) -> None:
        """The optimizer's stream waits for a drain that still reads the weights; the host does not."""
        if self._spare is None:
            torch.cuda.current_stream().wait_event(self._drained)


def make_copier(tensors: Tensors) -> Copier:
    """The cheapest way that the machine has memory for. To be called when training has its memory: after the first update."""
    on_device = {name: tensor for name, tensor in tensors.items() if tensor.device.type == "cuda"}
    if not on_device:
        return PlainCopy()
    need = sum(tensor.nbytes for tensor in on_device.values())
    free, _ = torch.cuda.mem_get_info()
    cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    if need + MARGIN_BYTES > free + cached:
        return DeviceCopy(None)
    try:
        return DeviceCopy({name: torch.empty_like(tensor) for name, tensor in on_device.items()})
    except torch.OutOfMemoryError:
        return DeviceCopy(None)


def register(buffer: Tensor) -> Callable[[], None]:
    """Pin host memory that others have mapped; gives what undoes it. Raises AdamError where CUDA refuses."""
    cudart = torch.cuda.cudart()
    error = int(cudart.cudaHostRegister(buffer.data_ptr(), buffer.nbytes, 0))
    if error:
        raise AdamError(f"CUDA could not pin {buffer.nbytes} bytes of snapshot memory: error {error}")
    return lambda: cudart.cudaHostUnregister(buffer.data_ptr())
