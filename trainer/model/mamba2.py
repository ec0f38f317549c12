"""The Mamba-2 block (arXiv 2405.21060, figure 6), with mamba_ssm's parameter names."""

import torch
from torch import Tensor, nn

from adam.contract.model import ModelConfig
from adam.trainer.model.init import inverse_softplus_of_steps
from adam.trainer.ops.interface import Ops
from adam.trainer.ops.native_linear import parts


class GatedNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


class Mamba2(nn.Module):
    """(B, L, d_model) to (B, L, d_model). The shape must be resolved."""

    def __init__(self, config: ModelConfig, ops: Ops, linear: type[nn.Linear] = nn.Linear) -> None:
        super().__init__()
        self.ops, self.config = ops, config
        inner = config.d_inner
        self.heads = inner // config.headdim
        self.mixed = inner + 2 * config.ngroups * config.d_state  # x, B and C go through the convolution together
        self.in_proj = linear(config.d_model, inner + self.mixed + self.heads, bias=False)
        self.conv1d = nn.Conv1d(self.mixed, self.mixed, config.d_conv, groups=self.mixed, padding=config.d_conv - 1)
        self.dt_bias = nn.Parameter(inverse_softplus_of_steps(self.heads))
        self.A_log = nn.Parameter(torch.empty(self.heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = GatedNorm(inner)
        self.out_proj = linear(inner, config.d_model, bias=False)

    def forward(self, hidden: Tensor, resets: Tensor | None) -> Tensor:
        config, inner = self.config, self.config.d_inner
        z, xBC, dt = parts(self.in_proj, hidden, [inner, self.mixed, self.heads])
        xBC = self.ops.causal_conv1d(xBC, self.conv1d.weight.squeeze(1), self.conv1d.bias, resets)
        width = config.ngroups * config.d_state
        x, B, C = xBC.split([inner, width, width], dim=-1)
        x = x.unflatten(-1, (self.heads, config.headdim))
        B, C = (t.unflatten(-1, (config.ngroups, config.d_state)) for t in (B, C))
        A = -self.A_log.exp()
        y = self.ops.ssd(x, dt, A, B, C, self.D, self.dt_bias, resets, config.chunk_size).flatten(-2)
        y = self.ops.gated_rms_norm(y, z, self.norm.weight, config.norm_epsilon, config.ngroups)
        out: Tensor = self.out_proj(y)
        return out
