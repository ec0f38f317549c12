"""What all native kernels share on the host: how one is found and launched, how operands must lie, how operators are registered.

Registered with `torch.library`'s plain functions: what `custom_op` makes imports dynamo at the first call, two seconds of each start.
"""

import struct
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from adam.trainer.ops.nvrtc import Kernel, module

ELEMENTS = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}
COMMON = "common.cuh"
Macros = tuple[tuple[str, int], ...]
Source = tuple[tuple[str, ...], Macros]  # files behind the common one, and what they are compiled with
Implementation = Callable[..., Any]

_library = torch.library.Library("adam", "DEF")
OPERATORS: dict[str, Implementation] = {}  # what runs on a GPU, by the operator's name


@lru_cache(maxsize=256)
def kernel(files: tuple[str, ...], name: str, macros: Macros, device: int) -> Kernel:
    """The kernel of that name in those files; compiled and loaded where it is not yet."""
    return Kernel(module((COMMON, *files), macros, device), name)


def compile_all(sources: list[Source], device: int) -> None:
    """Compile and load these beside one another, where they are not there yet."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda source: module((COMMON, *source[0]), source[1], device), sources))


def launch(
    files: tuple[str, ...],
    name: str,
    macros: Macros,
    grid: tuple[int, int],
    threads: int,
    arguments: tuple[Tensor | int | None, ...],
    shared: int = 0,
) -> None:
    """Queue a kernel on the current stream of the GPU that its operands lie on.

    grid: columns and rows of blocks. shared: bytes of dynamic shared memory, at most 48 KB.
    """
    device = next(argument for argument in arguments if isinstance(argument, Tensor)).device
    with torch.cuda.device(device):
        kernel(files, name, macros, device.index).launch((*grid, 1), threads, shared, arguments)


def operator(schema: str, run: Implementation, shapes: Implementation) -> None:
    """Define `adam::…` of that schema: what runs on a GPU, and what it gives without running."""
    name = _library.define(schema).split("::")[-1].split("(")[0]
    OPERATORS[name] = run
    _library.impl(name, run, "CUDA")
    torch.library.register_fake(f"adam::{name}", shapes, lib=_library)


def derivative(name: str, gradients: Implementation, remember: Implementation) -> None:
    """How the gradients of `adam::NAME` are computed, by the operator `adam::NAME_backward`: once."""
    torch.library.register_autograd(f"adam::{name}", gradients, setup_context=remember, lib=_library)

    def no_second_time(*_: Any) -> None:
        raise RuntimeError(f"the native {name} is differentiable once")

    # Without it torch would take second derivatives for 0, and only warn.
    torch.library.register_autograd(f"adam::{name}_backward", no_second_time, lib=_library)


def element(name: str, dtype: torch.dtype) -> int:
    """The number of a type among the kernels'. Raises ValueError for one that they do not know."""
    if dtype not in ELEMENTS:
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in ELEMENTS)
        raise ValueError(f"the native {name} takes {known}, not {dtype} (trainer.backend = 'torch' takes all)")
    return ELEMENTS[dtype]


def agree(
    name: str, wanted: Mapping[str, tuple[Tensor | None, tuple[int, ...], torch.dtype]], device: torch.device
) -> None:
    """Raise ValueError for an operand of another shape, type or place: a kernel would read beyond it, or take its bits for others."""
    for what, (tensor, shape, dtype) in wanted.items():
        if tensor is not None and not tensor.numel():
            raise ValueError(f"the native {name} has nothing to do: its {what} is {tuple(tensor.shape)}")
        if tensor is not None and (tuple(tensor.shape), tensor.dtype, tensor.device) != (shape, dtype, device):
            raise ValueError(
                f"the native {name}'s {what} is {tuple(tensor.shape)} {tensor.dtype} on {tensor.device}, and goes as "
                f"{shape} {dtype} on {device}"
            )


def bits(number: float) -> int:
    """A number as the whole number that has its bits in fp32, which is how kernels take it."""
    found: int = struct.unpack("<i", struct.pack("<f", number))[0]
    return found


def rows(tensor: Tensor) -> bool:
    """(B, L, D): equally distant rows, each aligned to four elements."""
    batch, length, _ = tensor.shape
    between, row, one = tensor.stride()
    return one == 1 and row % 4 == 0 and _aligned(tensor) and (batch == 1 or between == length * row)


def in_rows(tensor: Tensor) -> Tensor:
    """Itself, or a copy that lies so."""
    return tensor if rows(tensor) else plain(tensor)


def plain(tensor: Tensor) -> Tensor:
    """Contiguous and aligned to four elements, which a part of a larger buffer (a gathered parameter) may not be."""
    tensor = tensor.contiguous()
    return tensor if _aligned(tensor) else tensor.clone()


def _aligned(tensor: Tensor) -> bool:
    return tensor.data_ptr() % (4 * tensor.element_size()) == 0
