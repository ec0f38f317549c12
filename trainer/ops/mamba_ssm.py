"""mamba_ssm's selective scan, where it is installed (the extra `cuda`), and the reference for all else.

It knows neither documents nor states to begin with. A document's beginning becomes a step so long that nothing before it is left; what
the token itself adds is divided by that step beforehand. Its gradients differ from run to run (atomic additions).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from adam.trainer.ops.reference import ReferenceOps

LONG = 1e6  # a step: the decay of the slowest state that Mamba trains, A = -1e-3, is exp(-1000)


class MambaSsmOps(ReferenceOps):
    repeatable = False

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
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

        with torch.autocast(u.device.type, enabled=False):
            entering, span = u, delta
            if resets is not None:
                first = resets.unsqueeze(2)
                step = F.softplus(delta.float() + delta_bias)
                entering = torch.where(first, (u * (step / LONG)).to(u.dtype), u)
                span = delta.masked_fill(first, LONG)
            y = selective_scan_fn(
                *(part.transpose(1, 2) for part in (entering, span)),
                A.float(),
                B.transpose(1, 2).contiguous(),
                C.transpose(1, 2).contiguous(),
                delta_bias=delta_bias.float(),
                delta_softplus=True,
            ).transpose(1, 2)
            out: Tensor = ((y + D * u) * F.silu(z.float())).to(u.dtype)
            return out
