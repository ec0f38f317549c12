"""From mapped files into tensors, at the speed of the way to the GPU."""

import torch
from torch import Tensor

from adam.trainer.sums import bytes_of

STAGE_BYTES, STAGES = 64 << 20, 4


class Feeder:
    """Copies from files into tensors, exactly; to a GPU through pinned buffers in turn, so that reading and sending overlap."""

    def __init__(self, *, device: str) -> None:
        self._stages = [
            torch.empty(STAGE_BYTES, dtype=torch.uint8, pin_memory=True) for _ in range(STAGES * (device == "cuda"))
        ]
        self._sent = [torch.cuda.Event() for _ in self._stages]
        self._turn = 0

    def copy(self, target: Tensor, source: Tensor) -> None:
        if not self._stages:
            target.copy_(source)
            return
        into, data = bytes_of(target), bytes_of(source)
        for begin in range(0, data.numel(), STAGE_BYTES):
            size = min(STAGE_BYTES, data.numel() - begin)
            stage, sent = self._stages[self._turn], self._sent[self._turn]
            self._turn = (self._turn + 1) % STAGES
            sent.synchronize()
            stage[:size].copy_(data[begin : begin + size])
            into[begin : begin + size].copy_(stage[:size], non_blocking=True)
            sent.record()

    def finish(self) -> None:
        """Until all has arrived."""
        for sent in self._sent:
            sent.synchronize()
