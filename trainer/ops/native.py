"""The native backend: our kernels, and the reference for what they do not take."""

import torch
from torch import Tensor

from adam.trainer.ops import native_conv, native_loss, native_norm, native_ssd
from adam.trainer.ops.native_scan import scan
from adam.trainer.ops.reference import ReferenceOps


class NativeOps(ReferenceOps):
    """`Ops` for NVIDIA GPUs (sm_80 and later), bit for bit repeatable.

    Args:
        recompute: keep nothing of scans for the backward: 50 GiB less for the 2.7B model at 8 x 2048 (states 40, y 10), for a forward more;
            of Mamba-2 no states.
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

    def ssd(
        self,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        dt_bias: Tensor,
        resets: Tensor | None,
        chunk_size: int,
    ) -> Tensor:
        """As `Ops` says; chunks are of the kernels' own size. Other than half precision, heads of 64 and states by 16 is the reference's."""
        if not native_ssd.takes(x, B):
            return super().ssd(x, dt, A, B, C, D, dt_bias, resets, chunk_size)
        with torch.autocast(x.device.type, enabled=False):
            return native_ssd.ssd(x, dt, A, B, C, D, dt_bias, resets, recompute=self.recompute)

    def causal_conv1d(self, x: Tensor, weight: Tensor, bias: Tensor | None, resets: Tensor | None) -> Tensor:
        if weight.shape[1] not in native_conv.TAPS:
            return super().causal_conv1d(x, weight, bias, resets)
        with torch.autocast(x.device.type, enabled=False):
            return native_conv.causal_conv(x, weight, bias, resets)

    def add_rms_norm(self, x: Tensor, residual: Tensor | None, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """As `Ops` says, but under autocast the norm has the type of the products that read it: they would round it anyway."""
        if not native_norm.takes(x.shape[-1]):
            return super().add_rms_norm(x, residual, weight, epsilon)
        dtype = _autocast_to(x.device.type, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            return native_norm.add_rms_norm(x, residual, weight, epsilon, dtype)

    def gated_rms_norm(self, x: Tensor, z: Tensor, weight: Tensor, epsilon: float, groups: int) -> Tensor:
        if not native_norm.takes(x.shape[-1] // groups):
            return super().gated_rms_norm(x, z, weight, epsilon, groups)
        with torch.autocast(x.device.type, enabled=False):
            return native_norm.gated_rms_norm(x, z, weight, epsilon, groups)

    def cross_entropy(self, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        if len(weight) % 4:
            return super().cross_entropy(hidden, weight, targets)
        dtype = _autocast_to(hidden.device.type, hidden.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            losses = native_loss.cross_entropy(hidden.to(dtype).flatten(0, 1), weight, targets.flatten())
            return losses.view_as(targets)


def _autocast_to(device: str, otherwise: torch.dtype) -> torch.dtype:
    """What autocast computes products in, where it is on."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else otherwise
