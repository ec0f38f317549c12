"""How a snapshot gets from where training has it into a slot, at the least cost to training.

CPU        a plain copy: training waits for it.
GPU        a copy on the device (19 ms for 33 GB), drained into the slot by a stream of its own while training goes on. Where the device has
           no memory for that, group by group through two small buffers while the weights do not change: until the next
           optimizer step.

A slot's payload has the tensors one after the other, each from a page on; so a group is drained in one piece, and the checksums of all
tensors come of a few operations on the device. The slot's memory is pinned: a copy into pageable memory is 20 times slower and blocks.
"""

import contextlib
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from adam.contract.slots import PAGE_BYTES
from adam.trainer.sums import bytes_of, page_sums, read_sums, sums_between, tensor_sum

Tensors = dict[str, Tensor]
Spans = dict[str, tuple[int, int]]  # where a tensor's bytes begin and end in the payload
MARGIN_BYTES = 4 << 30  # of device memory that a copy on the device leaves to training
SMALLEST_BUFFER = 512 << 20
CHUNK_BYTES = 64 << 20  # a copy engine does one copy at a time, and training reads its loss through it


class Copier(Protocol):
    """Copies the tensors that it was made for into payloads that are laid out by the same spans."""

    device_s: float  # how long the last copy kept the device from training; what the host did in `start` is not in it

    def start(self, payload: Tensor) -> None:
        """Begin; what the tensors hold now is what is copied. `payload`: uint8, in the host's memory."""

    def done(self) -> dict[str, str] | None:
        """The checksum of each tensor when all is in the payload; None until then."""

    def before_update(self) -> None:
        """The tensors are about to change."""


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


class DeviceCopy:
    """Of tensors on a GPU, through `buffers` (uint8, there): one as large as all of them, or two at least as the largest."""

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
        self._began, self._copied, self._done = (torch.cuda.Event(enable_timing=True) for _ in range(3))
        self._waits, self._goes_on = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._waited = False
        # Read from the host's memory: reading them from the device would wait for all that training has queued there.
        self._sums = torch.empty(len(tensors), 2, dtype=torch.int64, pin_memory=True)

    @property
    def _whole(self) -> bool:
        return len(self._groups) == 1

    def start(self, payload: Tensor) -> None:
        here = torch.cuda.current_stream()
        self._began.record(here)
        self._waited = False
        if self._whole:
            self._groups[0].gather()
        self._copied.record(here)
        self._gathering.wait_event(self._copied)
        pages = [self._pass_on(number, payload) for number in range(len(self._groups))]
        with torch.cuda.stream(self._gathering):
            self._sums.copy_(sums_between(torch.cat(pages), self._first, self._end), non_blocking=True)
            self._gathering.wait_event(self._groups[-1].drained)
            self._done.record()

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
            pages = page_sums(group.pages)
        with torch.cuda.stream(self._draining):
            self._draining.wait_event(group.gathered)
            into = payload[group.first : group.end]
            for begin in range(0, len(into), CHUNK_BYTES):
                into[begin : begin + CHUNK_BYTES].copy_(group.bytes[begin : begin + CHUNK_BYTES], non_blocking=True)
            group.drained.record()
        return pages

    def done(self) -> dict[str, str] | None:
        if not self._done.query() or (self._waited and not self._goes_on.query()):
            return None
        waited = self._waits.elapsed_time(self._goes_on) if self._waited else 0.0
        self.device_s = (self._began.elapsed_time(self._copied) + waited) / 1000
        return dict(zip(self._names, read_sums(self._sums), strict=True))

    def before_update(self) -> None:
        """The optimizer's stream waits until the last group is gathered from the weights; the host does not."""
        if not self._whole and not self._waited:
            here = torch.cuda.current_stream()
            self._waits.record(here)
            here.wait_event(self._groups[-1].gathered)
            self._goes_on.record(here)
            self._waited = True


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


def register(buffer: Tensor) -> Callable[[], None] | None:
    """Pin host memory that others have mapped (of a tmpfs; CUDA refuses files of a disk); gives what undoes it, None where CUDA refuses."""
    cudart, address = torch.cuda.cudart(), buffer.data_ptr()
    if not int(cudart.cudaHostRegister(address, buffer.nbytes, 0)):
        return lambda: cudart.cudaHostUnregister(address)
    with contextlib.suppress(RuntimeError):  # CUDA tells of the refusal once more, at its next call
        torch.empty(1, device="cuda").zero_()
    return None
