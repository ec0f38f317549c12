"""What a GPU's memory would have to hold, without one: the model runs on fake tensors, and torch's caching allocator is played.

Fake tensors have shapes and no numbers, so that 2.7B parameters take seconds on any machine. Our operators run as they are, but for the
kernels, which are not launched: all that they allocate on their way counts. Addresses are those of `Allocator`, which deals memory out as
`c10/cuda/CUDACachingAllocator` does (rounded to 512 bytes, the smallest block that fits, cut where more than 1 MB is left).
"""

import bisect
import itertools
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adam.trainer.ops import native, native_kernel, native_launch, native_linear, native_loss, native_ssd  # noqa: F401

MULTIPROCESSORS, RESIDENT = 132, 4  # of an H200; blocks of a scan that one holds
SMALL, MIB = 1 << 20, 1 << 20


@dataclass
class Block:
    segment: int
    offset: int
    size: int
    free: bool = True

    @property
    def key(self) -> tuple[int, int, int]:
        return self.size, self.segment, self.offset


@dataclass
class Allocator:
    """torch's caching allocator, of one stream. Sizes in bytes."""

    total: int = 1 << 60
    reserved: int = 0
    peak_reserved: int = 0
    allocated: int = 0
    peak_allocated: int = 0
    _segments: dict[int, list[Block]] = field(default_factory=dict)
    _free: dict[bool, list[tuple[tuple[int, int, int], Block]]] = field(default_factory=lambda: {True: [], False: []})
    _number: Iterator[int] = field(default_factory=itertools.count)

    def take(self, size: int) -> Block:
        """Raises OutOfMemoryError, as torch does where even an empty cache does not help."""
        size = max(512, -(-size // 512) * 512)
        small = size <= SMALL
        free = self._free[small]
        place = bisect.bisect_left(free, ((size, -1, -1),), key=lambda one: (one[0],))
        block = free.pop(place)[1] if place < len(free) else self._segment(size, small)
        rest = block.size - size
        if rest >= 512 if small else rest > SMALL:
            left = Block(block.segment, block.offset + size, rest)
            blocks = self._segments[block.segment]
            blocks.insert(blocks.index(block) + 1, left)
            block.size = size
            self._put(left, small)
        block.free = False
        self.allocated += block.size
        self.peak_allocated = max(self.peak_allocated, self.allocated)
        return block

    def give_back(self, block: Block) -> None:
        self.allocated -= block.size
        blocks = self._segments[block.segment]
        small = sum(one.size for one in blocks) == 2 * MIB and block.size <= SMALL
        at = blocks.index(block)
        for other in (at + 1, at - 1):
            if 0 <= other < len(blocks) and blocks[other].free:
                one = blocks[other]
                self._drop(one)
                block.offset, block.size = min(block.offset, one.offset), block.size + one.size
                blocks.remove(one)
                at = blocks.index(block)
        block.free = True
        self._put(block, small)

    def empty_cache(self) -> None:
        for number, blocks in list(self._segments.items()):
            if len(blocks) == 1 and blocks[0].free:
                self._drop(blocks[0])
                self.reserved -= blocks[0].size
                del self._segments[number]

    def reset_peaks(self) -> None:
        self.peak_reserved, self.peak_allocated = self.reserved, self.allocated

    def _segment(self, size: int, small: bool) -> Block:
        whole = 2 * MIB if small else 20 * MIB if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB
        if self.reserved + whole > self.total:
            self.empty_cache()
        if self.reserved + whole > self.total:
            raise torch.OutOfMemoryError(f"{whole} bytes beside {self.reserved} of {self.total}")
        block = Block(next(self._number), 0, whole)
        self._segments[block.segment] = [block]
        self.reserved += whole
        self.peak_reserved = max(self.peak_reserved, self.reserved)
        return block

    def _put(self, block: Block, small: bool) -> None:
        bisect.insort(self._free[small], (block.key, block), key=lambda one: one[0])

    def _drop(self, block: Block) -> None:
        for free in self._free.values():
            place = bisect.bisect_left(free, block.key, key=lambda one: one[0])
            if place < len(free) and free[place][1] is block:
                free.pop(place)
                return
        raise AssertionError(f"{block} is not free")


class _Recorder(TorchDispatchMode):
    """Gives each new storage a block of the allocator, until nobody has it any more."""

    def __init__(self, allocator: Allocator) -> None:
        super().__init__()
        self.allocator, self._known = allocator, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        run = native_kernel.OPERATORS.get(func._opname) if func.namespace == "adam" else None
        if run is None:
            found = func(*args, **(kwargs or {}))
        else:
            with self:  # what it allocates on its way counts
                found = run(*args)
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self.see(tensor)
        return found

    def see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._known or not storage.nbytes():
            return
        block, key = self.allocator.take(storage.nbytes()), storage._cdata

        def gone(_: object) -> None:
            del self._known[key]
            self.allocator.give_back(block)

        self._known[key] = weakref.ref(storage, gone)


class _Kernel:
    """As `nvrtc.Kernel`, and does nothing."""

    def __init__(self, _: object, name: str) -> None:
        pass

    def number(self, what: str) -> int:
        return {"threads": 256, "shared": 1 << 15, "channels": 64, "time": 16}[what]

    def resident(self, threads: int, shared: int) -> int:
        return RESIDENT * MULTIPROCESSORS

    def launch(self, *_: object) -> None:
        pass


def _wide(a: Tensor, b: Tensor) -> Tensor:
    return torch.empty(*a.shape[:-1], b.shape[-1], dtype=torch.float32)


@contextmanager
def fake_gpu(total: int = 1 << 60) -> Iterator[Allocator]:
    """Tensors made inside have no numbers and lie in the memory of a GPU made up. `cpu` is what they call their device."""
    allocator = Allocator(total)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_kernel, "module", lambda *_: None)
        patch.setattr(native_kernel, "Kernel", _Kernel)
        patch.setattr(native_kernel, "_aligned", lambda _: True)
        patch.setattr(torch.cuda, "device", lambda _: nullcontext())
        # What a GPU multiplies in halves and adds up in fp32; on a CPU the halves are widened first.
        patch.setattr(native_linear, "multiply_wide", lambda *_: None)
        patch.setattr(native_loss, "_added", lambda so_far, a, b: _wide(a, b))
        patch.setattr(native_ssd, "_wide", _wide)
        native_launch._load.cache_clear()
        native_kernel.kernel.cache_clear()
        try:
            with FakeTensorMode(), _Recorder(allocator):
                yield allocator
        finally:
            native_kernel.kernel.cache_clear()
            native_launch._load.cache_clear()
