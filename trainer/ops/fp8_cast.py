"""Rows cast to fp8 with a scale each: one pass over memory on a GPU (`kernels/fp8.cu`), plain torch elsewhere, to the same bits."""

import torch
from torch import Tensor

from adam.trainer.ops.nvrtc import Kernel, module

FP8 = torch.float8_e4m3fn
LARGEST = 448.0  # of e4m3
SMALLEST_AMAX = 1e-30  # as in fp8.cu
STEP = 16  # what rows and columns of an fp8 product are multiples of
ELEMENTS = {torch.bfloat16: 0, torch.float32: 2}
MOST_PARTS = 3
HELD = 40  # fp32 values that a thread keeps in registers
THREADS = (128, 256, 512, 1024)
SIDE = 64  # of a tile that is transposed


def cast_rows(*parts: Tensor, factors: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(fp8, scales): the parts side by side, each column multiplied by its factor first, are about fp8 * scales.

    parts: one to three of (R, …) bf16 or fp32, C columns together; their numbers of columns are multiples of 16. factors: (C,) fp32, or
    None. Gives (R, C) e4m3 and (R, 1) fp32: a row's largest magnitude over 448. What is not finite becomes NaN. Raises ValueError for
    other shapes and types.
    """
    x, widths = parts[0], [part.shape[1] for part in parts]
    rows, width = x.shape[0], sum(widths)
    if x.dtype not in ELEMENTS or any(one % STEP for one in widths) or len(parts) > MOST_PARTS:
        raise ValueError(f"rows of {widths} {x.dtype} can't be cast to fp8: bf16 or fp32, multiples of {STEP}")
    if not on_gpu(x):
        return cast_plainly(torch.cat(parts, dim=1), factors)
    lying = [part.contiguous() for part in parts] + [None] * (MOST_PARTS - len(parts))
    out = torch.empty(rows, width, dtype=FP8, device=x.device)
    scales = torch.empty(rows, 1, dtype=torch.float32, device=x.device)
    second = sum(widths[:2])
    threads, vectors = block(width, x.element_size())
    macros = (("ELEMENT", ELEMENTS[x.dtype]), ("THREADS", threads), ("VECTORS", vectors))
    with torch.cuda.device(x.device):
        _kernel("cast_rows", macros, x.device.index).launch(
            (rows, 1, 1), threads, 0, (*lying, factors, out, scales, widths[0], second, width)
        )
    return out, scales


def transposed(x: Tensor) -> Tensor:
    """(C, R) contiguous of x, (R, C) contiguous, of single bytes; both multiples of 16."""
    if not on_gpu(x):
        return x.t().contiguous()
    rows, columns = x.shape
    out = torch.empty(columns, rows, dtype=x.dtype, device=x.device)
    grid = (-(-columns // SIDE), -(-rows // SIDE), 1)
    macros = (("ELEMENT", 0), ("THREADS", THREADS[0]), ("VECTORS", 1))
    with torch.cuda.device(x.device):
        _kernel("transpose_bytes", macros, x.device.index).launch(grid, 256, 0, (x, out, rows, columns))
    return out


def block(width: int, element_bytes: int) -> tuple[int, int]:
    """Threads of a block and 16-byte loads of each for a row: few threads, so that many rows are under way. Raises ValueError."""
    loads, most = -(-width * element_bytes // 16), HELD * element_bytes // 16
    for threads in THREADS:
        if loads <= threads * most:
            return threads, -(-loads // threads)
    raise ValueError(f"a row of {width} elements is too long to be cast to fp8")


def _kernel(name: str, macros: tuple[tuple[str, int], ...], device: int) -> Kernel:
    return Kernel(module(("fp8.cu",), macros, device), name)


def on_gpu(x: Tensor) -> bool:
    return x.is_cuda


def cast_plainly(x: Tensor, factors: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`cast_rows` in plain torch: what the kernel is checked against."""
    wide = x.float() if factors is None else x.float() * factors
    amax = wide.abs().nan_to_num(nan=0.0, posinf=torch.inf).amax(1, keepdim=True).clamp(min=SMALLEST_AMAX)
    largest = torch.full_like(amax, LARGEST)  # by a number, torch would multiply with a rounded reciprocal
    return (wide * (largest / amax)).clamp(-LARGEST, LARGEST).to(FP8), amax / largest
