"""The native backend: our selective scan, and the reference for what has no kernel of ours."""

import torch
from torch import Tensor

from adam.trainer.ops.native_scan import scan
from adam.trainer.ops.reference import ReferenceOps


class NativeOps(ReferenceOps):
    """`Ops` for NVIDIA GPUs (sm_80 and later), bit for bit repeatable.

    Args:
        recompute: keep nothing of scans for the backward: 50 GiB less for the 2.7B model at 8 x 2048 (states 40, y 10), for a forward more.
    """

    def __init__(self, *, recompute: bool = False) -> None:
        self.recompute = recompute

    def selective_scan_from(
        self,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        z: Tensor,
        delta_bias: Tensor,
        resets: Tensor | None,
        initial: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(u.device.type, enabled=False):
            return scan(u, delta, A, B, C, D, z, delta_bias, resets, initial, recompute=self.recompute)
