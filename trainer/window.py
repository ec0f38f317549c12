"""Reading a few numbers from a GPU without its copy engine.

A copy to the host waits for every copy that was queued before it, of any stream: while 33 GB of a snapshot drain, reading a loss the
usual way stands still for up to 0.6 s (measured: 80 ms of stall a snapshot instead of 26). A kernel that writes into mapped host memory
does not.
"""

import torch
from torch import Tensor

MOST = 16


class _Mapped:
    """Pinned host memory as the device sees it (CUDA's unified addresses are the same on both sides)."""

    def __init__(self, pinned: Tensor) -> None:
        self.__cuda_array_interface__ = {
            "shape": tuple(pinned.shape),
            "typestr": "<f8",
            "data": (pinned.data_ptr(), False),
            "version": 3,
        }


class Window:
    """Reads up to MOST numbers at once, exactly; waits until they are computed."""

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        if self._cuda:
            self._pinned = torch.zeros(MOST, dtype=torch.float64, pin_memory=True)
            self._mapped = torch.as_tensor(_Mapped(self._pinned), device=device)
            self._written = torch.cuda.Event()

    def read(self, values: Tensor) -> list[float]:
        """values: float64, (n,) with n <= MOST."""
        if not self._cuda:
            found: list[float] = values.tolist()
            return found
        torch.mul(values, 1.0, out=self._mapped[: len(values)])
        self._written.record()
        self._written.synchronize()
        read: list[float] = self._pinned[: len(values)].tolist()
        return read
