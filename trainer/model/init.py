"""First weights, drawn as mamba_ssm draws them, from torch's global generator."""

import math

import torch
from torch import Tensor, nn

STEP_MIN, STEP_MAX, STEP_FLOOR = 1e-3, 1e-1, 1e-4


def inverse_softplus_of_steps(count: int) -> Tensor:
    """Biases whose softplus, the first step sizes, is log-uniform between STEP_MIN and STEP_MAX. (count,) fp32."""
    steps = torch.exp(torch.rand(count) * (math.log(STEP_MAX) - math.log(STEP_MIN)) + math.log(STEP_MIN))
    steps = steps.clamp(min=STEP_FLOOR)
    return steps + torch.log(-torch.expm1(-steps))


def init_weights(module: nn.Module, n_layer: int) -> None:
    """Embedding N(0, 0.02); biases of linear layers 0, but for dt_proj's; what adds to the residual stream scaled by 1/sqrt(n_layer).

    The scaling is GPT-2's, with one residual addition a layer.
    """
    for name, child in module.named_modules():
        if isinstance(child, nn.Embedding):
            nn.init.normal_(child.weight, std=0.02)
        elif isinstance(child, nn.Linear) and child.bias is not None and not name.endswith("dt_proj"):
            nn.init.zeros_(child.bias)
    for name, parameter in module.named_parameters():
        if name.endswith("out_proj.weight"):
            nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))
            with torch.no_grad():
                parameter.div_(math.sqrt(n_layer))
