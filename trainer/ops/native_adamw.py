"""AdamW on NVIDIA GPUs: all parameters in one launch, with the clipping of gradients folded in (`kernels/adamw.cu`).

torch's own clipping reads and writes each gradient once more, 22 GB for 2.7B parameters. State and options are those of
`torch.optim.AdamW`, but that the counts of updates are in the host's memory.
"""

import struct
from collections.abc import Iterable
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


class NativeAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW` whose updates are done by `update`, after `clip` has said how much of the gradients is used."""

    def __init__(self, groups: list[dict[str, object]], *, lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, lr=lr, betas=betas, eps=eps)
        self._chunks: Chunks | None = None
        self._of: list[Tensor] = []  # the parameters that the chunks are of
        self._norm: Tensor | None = None  # (2,): the norm, and what gradients are multiplied with
        self._clipped: list[Tensor] = []  # the gradients that it is of

    @staticmethod
    def takes(parameters: Iterable[Tensor]) -> bool:
        """Whether it updates these: whole fp32 tensors on one NVIDIA GPU."""
        every = list(parameters)
        return all(
            type(p.data) is Tensor and p.is_cuda and p.dtype == torch.float32 and p.is_contiguous() for p in every
        )

    def clip(self, most: float) -> Tensor:
        """The norm of all gradients, () fp32; if it is above `most`, the next update takes them that much smaller."""
        parameters, gradients = self._gradients()
        chunks = self._cut(parameters)
        table = self._table(parameters, gradients, [(0, 0)] * len(parameters))
        partial = table.new_empty(len(chunks.of_tensor), dtype=torch.float32)
        self._norm, self._clipped = table.new_empty(2, dtype=torch.float32), gradients
        blocks = len(partial)
        launch((FILE,), "square_sums", MACROS, (blocks, 1), THREADS, (table, *chunks, partial))
        launch((FILE,), "finish_norm", MACROS, (1, 1), THREADS, (partial, blocks, bits(most), self._norm))
        return self._norm[0]

    @torch.no_grad()
    def update(self) -> None:
        """One update from the gradients (arXiv 1711.05101, algorithm 2), clipped where `clip` was asked about these very ones."""
        parameters, gradients = self._gradients()
        clipped = len(gradients) == len(self._clipped) and all(
            a is b for a, b in zip(gradients, self._clipped, strict=True)
        )
        norm = self._norm if clipped else None
        chunks, table = self._cut(parameters), self._table(parameters, gradients, self._advance())
        beta1, beta2 = self.param_groups[0]["betas"]
        shares = (bits(beta1), bits(1 - beta1), bits(beta2), bits(1 - beta2))
        launch((FILE,), "adamw_update", MACROS, (len(chunks.of_tensor), 1), THREADS, (table, *chunks, norm, *shares))
        self._norm, self._clipped = None, []

    def begin(self, parameter: Tensor) -> dict[str, Tensor]:
        """The state of a parameter; zeros before the first update."""
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        return state

    def _gradients(self) -> tuple[list[Tensor], list[Tensor]]:
        """The parameters that have a gradient, and their gradients, which lie as the parameters do."""
        every = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        for parameter in every:
            if not parameter.grad.is_contiguous():
                parameter.grad = parameter.grad.contiguous()
        return every, [parameter.grad for parameter in every]

    def _cut(self, parameters: list[Tensor]) -> Chunks:
        known = len(parameters) == len(self._of) and all(a is b for a, b in zip(parameters, self._of, strict=True))
        if self._chunks is None or not known:
            self._chunks, self._of = Chunks.of(parameters), parameters
        return self._chunks

    def _advance(self) -> list[tuple[int, int]]:
        """Count an update; the two words of each parameter's row that the formulas need."""
        words = []
        for group in self.param_groups:
            rate, (beta1, beta2), epsilon = group["lr"], group["betas"], group["eps"]
            last = _pair(epsilon, rate * group["weight_decay"])
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                step = self.begin(parameter)["step"].add_(1).item()
                words.append((_pair(rate / (1 - beta1**step), (1 - beta2**step) ** 0.5), last))
        return words

    def _table(self, parameters: list[Tensor], gradients: list[Tensor], words: list[tuple[int, int]]) -> Tensor:
        """int64 (tensors, 7), as adamw.cu reads it."""
        rows = []
        for parameter, gradient, (first, second) in zip(parameters, gradients, words, strict=True):
            state = self.begin(parameter)
            moments = (state["exp_avg"].data_ptr(), state["exp_avg_sq"].data_ptr())
            rows.append((parameter.data_ptr(), gradient.data_ptr(), *moments, parameter.numel(), first, second))
        table = torch.tensor(rows)
        device = parameters[0].device
        return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table


def _pair(low: float, high: float) -> int:
    """Two numbers in fp32, as one word."""
    word: int = struct.unpack("<q", struct.pack("<ff", low, high))[0]
    return word
