"""The Mamba block (arXiv 2312.00752, figure 3), with mamba_ssm's parameter names."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from adam.contract.model import ModelConfig
from adam.trainer.forget import Forgetting
from adam.trainer.model.init import inverse_softplus_of_steps
from adam.trainer.ops.interface import Ops
from adam.trainer.ops.native_linear import parts


class Mamba1(nn.Module):
    """(B, L, d_model) to (B, L, d_model). The shape must be resolved."""

    def __init__(self, config: ModelConfig, ops: Ops, linear: type[nn.Linear] = nn.Linear) -> None:
        super().__init__()
        self.ops, self.rank, self.states = ops, config.dt_rank, config.d_state
        self.forget = False  # the convolution's output and the step sizes are made again in the backward
        inner = config.d_inner
        self.in_proj = linear(config.d_model, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, config.d_conv, groups=inner, padding=config.d_conv - 1)
        self.x_proj = nn.Linear(inner, config.dt_rank + 2 * config.d_state, bias=False)
        self.dt_proj = nn.Linear(config.dt_rank, inner)
        self.A_log = nn.Parameter(torch.arange(1, config.d_state + 1, dtype=torch.float32).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = linear(inner, config.d_model, bias=False)
        bound = config.dt_rank**-0.5
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        with torch.no_grad():
            self.dt_proj.bias.copy_(inverse_softplus_of_steps(inner))

    def forward(self, hidden: Tensor, resets: Tensor | None) -> Tensor:
        x, z = parts(self.in_proj, hidden, [self.out_proj.in_features] * 2)
        if not (self.forget and torch.is_grad_enabled()):
            scanned = self._scanned(x, z, resets, None)
        else:
            forget = Forgetting()
            with forget:
                scanned = self._scanned(x, z, resets, forget)
        out: Tensor = self.out_proj(scanned)
        return out

    def _scanned(self, x: Tensor, z: Tensor, resets: Tensor | None, forget: Forgetting | None) -> Tensor:
        """From the projected input to what goes into the output projection. forget: takes what the backward makes again."""

        def convolved() -> Tensor:
            return self.ops.causal_conv1d(x, self.conv1d.weight.squeeze(1), self.conv1d.bias, resets)

        def steps() -> Tensor:
            # The bias goes into the scan, which adds it in fp32.
            return nn.functional.linear(low_rank, self.dt_proj.weight)

        autocast = torch.is_autocast_enabled(x.device.type), torch.get_autocast_dtype(x.device.type)

        def as_now(make: Callable[[], Tensor]) -> Callable[[], Tensor]:
            """The backward runs without autocast."""

            def made() -> Tensor:
                with torch.autocast(x.device.type, enabled=autocast[0], dtype=autocast[1], cache_enabled=False):
                    return make()

            return made

        u = convolved()
        if forget:
            forget(u, as_now(convolved))
        low_rank, B, C = self.x_proj(u).split([self.rank, self.states, self.states], dim=-1)
        delta = steps()
        if forget:
            forget(delta, as_now(steps))
        A = -self.A_log.exp()
        return self.ops.selective_scan(u, delta, A, B, C, self.D, z, self.dt_proj.bias, resets)
