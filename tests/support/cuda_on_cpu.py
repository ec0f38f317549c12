"""Our CUDA kernels on a CPU: compiled by g++ against `cuda_on_cpu.h`, and launched on torch's tensors. Slow, and exact about sizes.

Each tensor lies against a page that nobody may touch: what a kernel reads or writes beyond a tensor ends the process there. What is
not aligned, or beyond an array of a fixed size, ends it too (g++'s sanitizers). Memory that was never written is NaN.
What it can't show: how a GPU orders writes without a barrier, and how fast anything is.
"""

import ctypes
import hashlib
import mmap
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adam.trainer.ops import native, native_kernel, native_launch  # noqa: F401  (native registers all operators)
from adam.trainer.ops.nvrtc import KERNELS, KernelError

HEADER = Path(__file__).with_name("cuda_on_cpu.h")
GXX = shutil.which("g++")
FLAGS = "-std=c++17 -O1 -march=native -fPIC -shared -w -fno-gnu-unique -fsanitize=alignment,bounds -fsanitize-undefined-trap-on-error"
OPERAND = re.compile(r'"[=a-z]+"\(((?:[^()]|\([^()]*\))*)\)')
RESIDENT = 2  # blocks that the machine made up holds at once, for each that a kernel's macro asks for
GRID = (2**31 - 1, 65535, 65535)  # what CUDA takes
_page = mmap.PAGESIZE
_mprotect = ctypes.CDLL(None, use_errno=True).mprotect
_mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def for_cpu(source: str) -> str:
    """CUDA C++ without PTX: `asm("NAME …" : outputs : inputs)` becomes ptx_NAME(outputs, inputs)."""

    def call(found: re.Match[str]) -> str:
        name = (
            "halves"
            if found[1].startswith("{.reg .f16")
            else re.match(r"[\w.]+", found[1])[0].replace(".", "_").rstrip("_")
        )
        return f"ptx_{name}({', '.join(OPERAND.findall(found[2]))})"

    source = re.sub(r'asm(?: volatile)?\(\s*"([^"]*)"\s*(.*?)\)(?=;)', call, source)
    return re.sub(
        r"extern __shared__ .*;", "unsigned char* bytes = (unsigned char*)on_cpu::self->block->shared;", source
    )


@lru_cache
def library(directory: Path, files: tuple[str, ...], macros: tuple[tuple[str, int], ...]) -> ctypes.CDLL:
    """The files as a library of this machine's."""
    source = HEADER.read_text() + for_cpu("\n".join((KERNELS / name).read_text() for name in files))
    name = hashlib.sha256(f"{source}{macros}".encode()).hexdigest()[:16]
    (directory / f"{name}.cpp").write_text(source)
    macro_flags = [f"-D{key}={value}" for key, value in macros]
    subprocess.run([GXX, *FLAGS.split(), *macro_flags, f"{name}.cpp", "-o", f"{name}.so"], cwd=directory, check=True)
    loaded = ctypes.CDLL(str(directory / f"{name}.so"))
    loaded.resident = RESIDENT * dict(macros).get("BLOCKS", dict(macros).get("OWN", 1))
    return loaded


class Guarded:
    """The memory that a tensor reaches, moved to the end of a page that another follows which nobody may touch."""

    def __init__(self, tensor: Tensor) -> None:
        reached = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        self._tensor, self._bytes = tensor, reached * tensor.element_size()
        room = -(-self._bytes // _page) * _page
        self._map = mmap.mmap(-1, room + _page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        assert _mprotect(start + room, _page, 0) == 0
        self.address = start + (room - self._bytes) // 16 * 16 if self._bytes else start + room
        ctypes.memmove(self.address, tensor.data_ptr(), self._bytes)

    def give_back(self) -> None:
        ctypes.memmove(self._tensor.data_ptr(), self.address, self._bytes)


class Kernel:
    """As `nvrtc.Kernel`, of a library."""

    def __init__(self, module: ctypes.CDLL, name: str) -> None:
        self._library, self._name = module, name

    def number(self, what: str) -> int:
        return ctypes.c_int.in_dll(self._library, f"{self._name}_{what}").value

    def resident(self, threads: int, shared: int) -> int:
        return self._library.resident

    def launch(self, grid: tuple[int, int, int], threads: int, shared: int, arguments: tuple) -> None:
        if any(not 0 < size <= most for size, most in zip(grid, GRID, strict=True)):
            raise KernelError(f"launching {self._name}: CUDA_ERROR_INVALID_VALUE (grid {grid})")
        guarded = {i: Guarded(argument) for i, argument in enumerate(arguments) if isinstance(argument, Tensor)}
        values = [guarded[i].address if i in guarded else argument or 0 for i, argument in enumerate(arguments)]
        # What a GPU gets of a whole number: 32 bits.
        values = [value if i in guarded else ctypes.c_int(value).value for i, value in enumerate(values)]
        given = (ctypes.c_uint64 * 32)(*(value & (2**64 - 1) for value in values))
        at_once = self._library.resident if shared else 1
        function = ctypes.cast(getattr(self._library, self._name), ctypes.c_void_p)
        rc = self._library.launch(function, *grid, threads, ctypes.c_size_t(shared), at_once, given)
        assert rc == 0, f"{self._name}: its blocks wait for one another"
        for tensor in guarded.values():
            tensor.give_back()


@contextmanager
def kernels_on_cpu(directory: Path) -> Iterator[None]:
    """The native operators work on CPU tensors. directory: for what is compiled."""
    registered = torch.library.Library("adam", "IMPL")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native_kernel, "module", lambda files, macros, device: library(directory, files, macros))
        patch.setattr(native_kernel, "Kernel", Kernel)
        patch.setattr(torch.cuda, "device", lambda device: nullcontext())
        native_launch._load.cache_clear()
        native_kernel.kernel.cache_clear()
        for name, run in native_kernel.OPERATORS.items():
            registered.impl(name, run, "CPU")
        try:
            yield
        finally:
            registered._destroy()
            native_kernel.kernel.cache_clear()
            native_launch._load.cache_clear()
