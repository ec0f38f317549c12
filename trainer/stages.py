"""Pinned memory of the host, in pieces: what goes to a device or comes from it passes through them in turn."""

from queue import SimpleQueue

import torch
from torch import Tensor

STAGE_BYTES, STAGES = 64 << 20, 8  # a copy engine does one copy at a time, and training reads its loss through it
Stage = tuple[Tensor, torch.cuda.Event]  # a buffer (uint8), and when the device has done with it


def free_stages() -> SimpleQueue[Stage]:
    free: SimpleQueue[Stage] = SimpleQueue()
    for _ in range(STAGES):
        free.put((torch.empty(STAGE_BYTES, dtype=torch.uint8, pin_memory=True), torch.cuda.Event(blocking=True)))
    return free
