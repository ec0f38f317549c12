"""AdamW on NVIDIA GPUs: all parameters in one launch, with the clipping of gradients folded in (`kernels/adamw.cu`).

torch's own clipping reads and writes each gradient once more, 22 GB for 2.7B parameters. State and options are those of
`torch.optim.AdamW`, but that the counts of updates are in the host's memory.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from adam.trainer.ops.native_kernel import bits, launch

CHUNK = 32768  # elements of a block, as in adamw.cu
THREADS = 256
FILE = "adamw.cu"
MACROS = (("ELEMENT", 2),)


class Chunks(NamedTuple):
    """Which chunk of which tensor each block has, int32 (blocks)."""

    of_tensor: Tensor
    of_chunk: Tensor

    @classmethod
    def of(cls, parameters: list[Tensor]) -> "Chunks":
        counts = torch.tensor([-(-parameter.numel() // CHUNK) for parameter in parameters])
        first = counts.cumsum(0) - counts
        tensors = torch.repeat_interleave(torch.arange(len(counts)), counts)
        chunks = torch.arange(len(tensors)) - first[tensors]
        device = parameters[0].device
        return cls(tensors.int().to(device), chunks.int().to(device))


@dataclass
class Work:
    """Gradients, and where all that belongs to them lies. The addresses are gathered before a trainer waits for the norm."""

    gradients: list[Tensor]
    chunks: Chunks
    table: Tensor  # int64 (tensors, 5), as adamw.cu reads it
    norm: Tensor | None = None  # (2,) fp32: the norm, and what gradients are multiplied with

    def is_of(self, parameters: list[Tensor]) -> bool:
        """Whether these are the parameters' gradients still."""
        return _same([p.grad for p in parameters if p.grad is not None], self.gradients)


class NativeAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` whose updates are done by `update`, after `clip` has said how much of the gradients is used."""

    def __init__(self, groups: list[dict[str, object]], *, lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, lr=lr, betas=betas, eps=eps)
        self._chunks: Chunks | None = None
        self._chunked: list[Tensor] = []  # the parameters that the chunks are of
        self._work: Work | None = None  # what `clip` has gathered

    @staticmethod
    def takes(parameters: Iterable[Tensor]) -> bool:
        """Whether it updates these: whole fp32 tensors on one NVIDIA GPU."""
        every = list(parameters)
        return all(
            type(p.data) is Tensor and p.is_cuda and p.dtype == torch.float32 and p.is_contiguous() for p in every
        )

    def clip(self, most: float) -> Tensor:
        """The norm of all gradients, () fp32; if it is above `most`, the next update takes them that much smaller."""
        work = self._work = self._gather()
        blocks = len(work.chunks.of_tensor)
        partial = work.table.new_empty(blocks, dtype=torch.float32)
        work.norm = work.table.new_empty(2, dtype=torch.float32)
        launch((FILE,), "square_sums", MACROS, (blocks, 1), THREADS, (work.table, *work.chunks, partial))
        launch((FILE,), "finish_norm", MACROS, (1, 1), THREADS, (partial, blocks, bits(most), work.norm))
        return work.norm[0]

    @torch.no_grad()
    def update(self) -> None:
        """One update from the gradients (arXiv 1711.05101, algorithm 2), clipped where `clip` was asked about these very ones."""
        work, self._work = self._work, None
        if work is None or not work.is_of([p for group in self.param_groups for p in group["params"]]):
            work = self._gather()
        numbers = _sent(self._advance(), work.table.device)
        beta1, beta2 = self.param_groups[0]["betas"]
        shares = (bits(beta1), bits(1 - beta1), bits(beta2), bits(1 - beta2))
        blocks = len(work.chunks.of_tensor)
        arguments = (work.table, numbers, *work.chunks, work.norm, *shares)
        launch((FILE,), "adamw_update", MACROS, (blocks, 1), THREADS, arguments)

    def begin(self, parameter: Tensor) -> dict[str, Tensor]:
        """The state of a parameter; zeros before the first update."""
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return state

    def _gather(self) -> Work:
        """What there is to do with the gradients as they are now."""
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if self._chunks is None or not _same(parameters, self._chunked):
            self._chunks, self._chunked = Chunks.of(parameters), parameters
        rows = []
        for parameter in parameters:
            if not parameter.grad.is_contiguous():
                parameter.grad = parameter.grad.contiguous()
            state = self.begin(parameter)
            tensors = (parameter, parameter.grad, state["exp_avg"], state["exp_avg_sq"])
            rows.append((*(tensor.data_ptr() for tensor in tensors), parameter.numel()))
        return Work([p.grad for p in parameters], self._chunks, _sent(rows, parameters[0].device))

    def _advance(self) -> list[tuple[int, int]]:
        """Count an update; the two words of each parameter's row that the formulas need."""
        words: list[tuple[int, int]] = []
        for group in self.param_groups:
            steps = [self.begin(parameter)["step"] for parameter in group["params"] if parameter.grad is not None]
            if not steps:
                continue
            torch._foreach_add_(steps, 1)
            counts = torch.stack(steps).tolist()
            rate, (beta1, beta2), epsilon = group["lr"], group["betas"], group["eps"]
            last = _pair(epsilon, rate * group["weight_decay"])
            of_count = {n: (_pair(rate / (1 - beta1**n), (1 - beta2**n) ** 0.5), last) for n in set(counts)}
            words += [of_count[count] for count in counts]
        return words


def _same(some: list[Tensor], others: list[Tensor]) -> bool:
    return len(some) == len(others) and all(a is b for a, b in zip(some, others, strict=True))


def _sent(rows: Sequence[tuple[int, ...]], device: torch.device) -> Tensor:
    """int64 on that device, without waiting for it."""
    table = torch.tensor(rows)
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table


def _pair(low: float, high: float) -> int:
    """Two numbers in fp32, as one word."""
    word: int = struct.unpack("<q", struct.pack("<ff", low, high))[0]
    return word
