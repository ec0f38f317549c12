"""How a snapshot gets from where training has it into a slot, at the least cost to training.

CPU        a plain copy: training waits for it.
GPU        a copy on the device (19 ms for 33 GB), drained into the slot while training goes on. Where the device has no memory for
           that, group by group through two small buffers while the weights do not change: until the next optimizer step.

A slot's payload has the tensors one after the other, each from a page on; so a group is drained in one piece, and the checksums of all
tensors come of a few operations on the device.

The way to the host leads through a few pinned buffers, from which threads fill the slot. Pinning the slots themselves would make that way
shorter and the rest worse: the driver takes 8 to 16 s for 33 GB, in which no kernel can be launched (which looks like a hang), and the
kernel 3 s to bury a process that has them (measured on an H200 with three slots; `docs/log.md`).
"""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy
import torch
from torch import Tensor

from adam.contract.slots import PAGE_BYTES
from adam.trainer.stages import STAGE_BYTES, free_stages
from adam.trainer.sums import bytes_of, page_sums, read_sums, sums_between, tensor_sum

Tensors = dict[str, Tensor]
Spans = dict[str, tuple[int, int]]  # where a tensor's bytes begin and end in the payload
MARGIN_BYTES = 4 << 30  # of device memory that a copy on the device leaves to training
SMALLEST_BUFFER = 512 << 20
WRITERS = 6  # threads: one alone fills memory at a tenth of what the way from the device gives


class Copier(Protocol):
    """Copies the tensors that it was made for into payloads that are laid out by the same spans."""

    device_s: float  # how long the last copy kept training waiting; what the host did in `start` is not in it

    def start(self, payload: Tensor) -> None:
        """Begin; what the tensors hold now is what is copied. `payload`: uint8, in the host's memory."""

    def done(self) -> dict[str, str] | None:
        """The checksum of each tensor when all is in the payload; None until then."""

    def before_update(self) -> None:
        """The tensors are about to change."""

    def close(self) -> None:
        """Wait for what is under way: nothing is written into a slot after this."""


class PlainCopy:
    """Of tensors in the host's memory."""

    def __init__(self, tensors: Tensors, spans: Spans) -> None:
        self.device_s = 0.0
        self._tensors, self._spans = tensors, spans
        self._sums: dict[str, str] | None = None

    def start(self, payload: Tensor) -> None:
        for name, tensor in self._tensors.items():
            first, end = self._spans[name]
            payload[first:end].copy_(bytes_of(tensor))
        # Of what training has, not of the copy: so an error of the copying shows too.
        self._sums = {name: tensor_sum(tensor) for name, tensor in self._tensors.items()}

    def done(self) -> dict[str, str] | None:
        return self._sums

    def before_update(self) -> None:
        """Nothing is under way any more."""

    def close(self) -> None:
        """Nothing is under way."""


class Stages:
    """Pinned buffers between a device and slots, each free again when a thread has written what was in it."""

    def __init__(self) -> None:
        self._free = free_stages()
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="slot-writer")
        self._writing: list[Future[None]] = []

    def send(self, data: Tensor, into: Tensor) -> None:
        """Bytes of the device, on the current stream, into as many of the host's memory; waits only for a buffer that is free."""
        for begin in range(0, data.numel(), STAGE_BYTES):
            part = data[begin : begin + STAGE_BYTES]
            buffer, arrived = self._free.get()
            buffer[: part.numel()].copy_(part, non_blocking=True)
            arrived.record()
            target = into[begin : begin + STAGE_BYTES]
            self._writing.append(self._writers.submit(self._write, buffer, arrived, target))

    def _write(self, buffer: Tensor, arrived: torch.cuda.Event, into: Tensor) -> None:
        try:
            arrived.synchronize()
            # Not torch's copy: in each of these threads it would begin as many of its own.
            numpy.copyto(into.numpy(), buffer[: into.numel()].numpy())
        finally:
            self._free.put((buffer, arrived))

    def finish(self) -> None:
        """Until all is written."""
        writing, self._writing = self._writing, []
        for part in writing:
            part.result()

    def close(self) -> None:
        self._writers.shutdown()


class DeviceCopy:
    """Of tensors on a GPU, through `buffers` (uint8, there): one as large as all of them, or two at least as the largest.

    A thread of its own follows the copy from group to group, since it has to wait for pinned buffers.
    """

    def __init__(self, tensors: Tensors, spans: Spans, buffers: list[Tensor]) -> None:
        self.device_s = 0.0
        self._names = list(tensors)
        cut = in_groups(spans, buffers[0].numel())
        self._groups = [Group(names, tensors, spans, buffers[n % len(buffers)]) for n, names in enumerate(cut)]
        self._ahead = len(buffers)
        bounds = torch.tensor([_pages(spans[name]) for name in tensors], device=buffers[0].device)
        self._first, self._end = bounds.unbind(1)
        # What it does is short beside a matrix product, and behind one each of its kernels would wait.
        self._draining, self._gathering = torch.cuda.Stream(), torch.cuda.Stream(priority=-1)
        self._began, self._copied = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._waits, self._goes_on = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._waited, self._held_s = False, 0.0
        self._device = buffers[0].device
        # Read from the host's memory: reading them from the device would wait for all that training has queued there.
        self._sums = torch.empty(len(tensors), 2, dtype=torch.int64, pin_memory=True)
        self._stages = Stages()
        self._follower = ThreadPoolExecutor(1, thread_name_prefix="slot-copy")
        self._following: Future[dict[str, str]] | None = None
        self._gathered = threading.Event()  # the last group's gathering is in its stream

    @property
    def _whole(self) -> bool:
        return len(self._groups) == 1

    def start(self, payload: Tensor) -> None:
        here = torch.cuda.current_stream()
        self._began.record(here)
        self._waited, self._held_s = False, 0.0
        if self._whole:
            self._groups[0].gather()
        self._copied.record(here)
        self._gathered.clear()
        self._following = self._follower.submit(self._follow, payload)

    def _follow(self, payload: Tensor) -> dict[str, str]:
        try:
            with torch.no_grad(), torch.cuda.device(self._device):
                self._gathering.wait_event(self._copied)
                pages = [self._pass_on(number, payload) for number in range(len(self._groups))]
                with torch.cuda.stream(self._gathering):
                    self._sums.copy_(sums_between(torch.cat(pages), self._first, self._end), non_blocking=True)
                    summed = torch.cuda.Event(blocking=True)
                    summed.record()
                self._stages.finish()
                summed.synchronize()
        finally:
            self._gathered.set()
        return dict(zip(self._names, read_sums(self._sums), strict=True))

    def _pass_on(self, number: int, payload: Tensor) -> Tensor:
        """Gather a group as soon as its buffer is free, drain it by the copy engine, and give its pages' sums, of the device's copy:
        so the way to the host, and its memory, are checked when the payload is read."""
        group = self._groups[number]
        with torch.cuda.stream(self._gathering):
            if not self._whole:
                if number >= self._ahead:
                    self._gathering.wait_event(self._groups[number - self._ahead].drained)
                group.gather()
            group.gathered.record()
            if number == len(self._groups) - 1:
                self._gathered.set()
            pages = page_sums(group.pages)
        with torch.cuda.stream(self._draining):
            self._draining.wait_event(group.gathered)
            self._stages.send(group.bytes, payload[group.first : group.end])
            group.drained.record()
        return pages

    def done(self) -> dict[str, str] | None:
        if self._following is None or not self._following.done() or (self._waited and not self._goes_on.query()):
            return None
        waited = self._waits.elapsed_time(self._goes_on) if self._waited else 0.0
        self.device_s = self._held_s + (self._began.elapsed_time(self._copied) + waited) / 1000
        return self._following.result()

    def before_update(self) -> None:
        """Training waits until the last group is gathered from the weights: the host until that is in its stream, then the optimizer's."""
        if not self._whole and not self._waited:
            began = time.perf_counter()
            self._gathered.wait()
            self._held_s = time.perf_counter() - began
            here = torch.cuda.current_stream()
            self._waits.record(here)
            here.wait_event(self._groups[-1].gathered)
            self._goes_on.record(here)
            self._waited = True

    def close(self) -> None:
        self._follower.shutdown()
        self._stages.close()


class Group:
    """Neighbours of the payload that go through the buffer together."""

    def __init__(self, names: list[str], tensors: Tensors, spans: Spans, buffer: Tensor) -> None:
        self.first, self.end = spans[names[0]][0], spans[names[-1]][1]
        size = self.end - self.first
        self.bytes, self.pages = buffer[:size], buffer[: -(-size // PAGE_BYTES) * PAGE_BYTES]
        self.gathered, self.drained = torch.cuda.Event(), torch.cuda.Event()
        self._tensors = [tensors[name] for name in names]
        rests = [_rest(buffer, spans[name], self.first) for name in names]
        self._rests = [rest for rest in rests if rest.numel()]
        self._copies = [
            buffer[spans[name][0] - self.first : spans[name][1] - self.first].view(tensor.dtype).view(tensor.shape)
            for name, tensor in zip(names, self._tensors, strict=True)
        ]

    def gather(self) -> None:
        """Copy into the buffer, on the current stream; what lies between two tensors is zero."""
        torch._foreach_copy_(self._copies, self._tensors)
        if self._rests:
            torch._foreach_zero_(self._rests)


def _rest(buffer: Tensor, span: tuple[int, int], base: int) -> Tensor:
    end = span[1] - base
    return buffer[end : -(-end // PAGE_BYTES) * PAGE_BYTES]


def _pages(span: tuple[int, int]) -> tuple[int, int]:
    return span[0] // PAGE_BYTES, -(-span[1] // PAGE_BYTES)


def in_groups(spans: Spans, size: int) -> list[list[str]]:
    """The names in payload order, cut so that each group fits into `size` bytes."""
    groups: list[list[str]] = []
    base = 0
    for name, (first, end) in spans.items():
        if not groups or end - base > size:
            groups.append([])
            base = first
        groups[-1].append(name)
    return groups


def make_copier(tensors: Tensors, spans: Spans) -> Copier:
    """The cheapest way that the machine has memory for. To be called when training has its memory: after the first update."""
    if next(iter(tensors.values())).device.type == "cpu":
        return PlainCopy(tensors, spans)
    device = next(iter(tensors.values())).device
    bounds = list(spans.values())
    need = -(-bounds[-1][1] // PAGE_BYTES) * PAGE_BYTES
    least = max(SMALLEST_BUFFER, *(-(-(end - first) // PAGE_BYTES) * PAGE_BYTES for first, end in bounds))
    free, _ = torch.cuda.mem_get_info()
    cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    whole = need + MARGIN_BYTES <= free + cached
    try:
        buffers = [torch.empty(need, dtype=torch.uint8, device=device)] if whole else []
    except torch.OutOfMemoryError:  # the cached memory is in pieces
        buffers = []
    return DeviceCopy(
        tensors, spans, buffers or [torch.empty(least, dtype=torch.uint8, device=device) for _ in range(2)]
    )
