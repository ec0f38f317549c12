"""The reference backend: every operation in plain PyTorch, on any device, bit for bit repeatable. The others are checked against it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from adam.trainer.ops.conv import causal_conv1d
from adam.trainer.ops.cross_entropy import cross_entropy
from adam.trainer.ops.scan import scan
from adam.trainer.ops.ssd import ssd


class ReferenceOps:
    """`Ops` in plain PyTorch. The recurrences, norms and losses are computed in fp32, whatever autocast says."""

    repeatable = True

    def selective_scan(
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
    ) -> Tensor:
        return self.selective_scan_from(u, delta, A, B, C, D, z, delta_bias, resets, None)[0]

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
            wide, dtype = _wide(u), u.dtype
            u, delta, B, C, z = (t.to(wide) for t in (u, delta, B, C, z))
            dt = F.softplus(delta + delta_bias)
            y, last = scan(u, dt, A, B, C, resets, initial)
            return ((y + D * u) * F.silu(z)).to(dtype), last

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
        with torch.autocast(x.device.type, enabled=False):
            wide, dtype = _wide(x), x.dtype
            x, dt, B, C = (t.to(wide) for t in (x, dt, B, C))
            repeat = x.shape[2] // B.shape[2]
            B, C = (t.repeat_interleave(repeat, dim=2) for t in (B, C))
            y = ssd(x, F.softplus(dt + dt_bias), A, B, C, resets, chunk_size)
            return (y + D.unsqueeze(-1) * x).to(dtype)

    def causal_conv1d(self, x: Tensor, weight: Tensor, bias: Tensor | None, resets: Tensor | None) -> Tensor:
        wide, dtype = _wide(x), x.dtype
        bias = None if bias is None else bias.to(wide)
        return causal_conv1d(x.to(wide), weight.to(wide), bias, resets).to(dtype)

    def add_rms_norm(self, x: Tensor, residual: Tensor | None, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        stream = x.to(_wide(x)) if residual is None else residual + x
        return _rms_norm(stream, weight, epsilon), stream

    def gated_rms_norm(self, x: Tensor, z: Tensor, weight: Tensor, epsilon: float, groups: int) -> Tensor:
        gated = x.to(_wide(x)) * F.silu(z.to(_wide(z)))
        parts = _rms_norm(gated.unflatten(-1, (groups, -1)), weight.view(groups, -1), epsilon)
        return parts.flatten(-2).to(x.dtype)

    def cross_entropy(self, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        with torch.autocast(device, enabled=False):
            return cross_entropy(hidden.to(dtype).flatten(0, 1), weight.to(dtype), targets.flatten()).view_as(targets)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * weight
