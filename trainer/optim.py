"""The optimizer and its schedule."""

import inspect
import math
from collections.abc import Iterator

import torch

from adam.contract.config import Trainer
from adam.trainer.model.lm import MambaLM, no_weight_decay
from adam.trainer.muon import MOMENTUM, MuonAndAdamW, is_matrix
from adam.trainer.ops.native import NativeOps
from adam.trainer.ops.native_adamw import NativeAdamW

_plain_step = inspect.unwrap(torch.optim.AdamW.step)


def learning_rate(step: int, config: Trainer) -> float:
    """The rate of update `step` (the first is 0): linear warm-up, cosine to `min_lr` at `decay_steps`, then flat.

    The first update already has a rate above 0, the last of the warm-up the peak.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if step >= config.decay_steps:
        return config.min_lr
    share = (step - config.warmup_steps) / (config.decay_steps - config.warmup_steps)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * share))


def keep_dynamo_out() -> None:
    """Spare each start the import of torch._dynamo (1.2 s, 60 MB), which torch's optimizers bring in only to be left alone by it.

    `torch._compile._disable_dynamo` looks for a cached answer first; without that attribute, all is as slow as before.
    """
    for method in (torch.optim.Optimizer.add_param_group, torch.optim.Optimizer.zero_grad):
        plain = getattr(method, "__wrapped__", None)
        if plain is not None:
            plain.__dict__.setdefault("__dynamo_disable", plain)


def make_optimizer(model: MambaLM, config: Trainer) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101), with Muon for matrices where that is asked for; norms, biases, A_log, D and
    dt_bias are not decayed. It is our own where the backend is, and the parameters are whole on one GPU.
    """
    keep_dynamo_out()
    decayed: list[torch.nn.Parameter] = []
    plain: list[torch.nn.Parameter] = []
    matrices: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if config.optimizer == "muon" and is_matrix(name, parameter):
            matrices.append(parameter)
        else:
            (plain if no_weight_decay(name, parameter) else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    betas = (config.beta1, config.beta2)
    if matrices:
        return MuonAndAdamW(
            groups, matrices, config.weight_decay, lr=config.lr, betas=betas, eps=config.eps, fused=True
        )
    if isinstance(model.ops, NativeOps) and NativeAdamW.takes(model.parameters()):
        return NativeAdamW(groups, lr=config.lr, betas=betas, eps=config.eps)
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=True)


def clip_gradients(model: MambaLM, optimizer: torch.optim.AdamW, most: float) -> torch.Tensor:
    """The norm of the whole gradient, (); the next `apply_update` takes a gradient that is larger than `most` as if it had that norm."""
    if isinstance(optimizer, NativeAdamW):
        return optimizer.clip(most)
    return torch.nn.utils.clip_grad_norm_(model.parameters(), most)


def apply_update(optimizer: torch.optim.AdamW) -> None:
    """One update from the gradients. What `optimizer.step` wraps around it is for torch.compile, and imports dynamo too."""
    with torch.no_grad():
        if isinstance(optimizer, MuonAndAdamW | NativeAdamW):
            optimizer.update()
        else:
            _plain_step(optimizer)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def moments(model: MambaLM, optimizer: torch.optim.AdamW) -> Iterator[tuple[str, torch.Tensor]]:
    """(`exp_avg.NAME` or `exp_avg_sq.NAME`, tensor) of every parameter, `momentum.NAME` of Muon's; zeros before the first."""
    for name, parameter in model.named_parameters():
        state = optimizer.begin(parameter) if isinstance(optimizer, NativeAdamW) else optimizer.state[parameter]
        if isinstance(optimizer, MuonAndAdamW) and optimizer.takes(parameter):
            if not state:
                state[MOMENTUM] = torch.zeros_like(parameter)
            yield f"momentum.{name}", state[MOMENTUM]
            continue
        if not state:
            state["step"] = torch.tensor(0.0, device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        yield f"exp_avg.{name}", state["exp_avg"]
        yield f"exp_avg_sq.{name}", state["exp_avg_sq"]


def set_step(optimizer: torch.optim.AdamW, step: int) -> None:
    """Tell AdamW how many updates it has done (its bias correction hangs on it)."""
    for state in optimizer.state.values():
        if "step" in state:  # Muon corrects nothing
            state["step"].fill_(float(step))
