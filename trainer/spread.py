"""A model spread over several ranks by FSDP2: each has a part of every weight, gradient and moment.

Each block is a unit, embedding, last norm and output layer are another. A unit's weights are gathered in fp32, as one rank has them, and
rounded where autocast rounds them; gradients are added up over the ranks in fp32. So all that differs from one rank is the order of sums.
"""

import warnings

import torch
import torch.distributed as dist
from torch import Tensor

from adam.trainer.model.lm import MambaLM

WEIGHT_BYTES = 4
KEPT_SHARE = (
    0.125  # of a GPU's memory: weights that take less are gathered once a micro-step, and kept for the backward
)


def spread(model: MambaLM, device: str, *, keep: bool) -> None:
    """Have this rank keep its part of `model`, which is the same whole one on all ranks. To be called by all.

    keep: gathered weights are kept from the forward to the backward: more memory, half as much to gather.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

    # Nothing changes in place what a block gives.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    for block in model.backbone.layers:
        fully_shard(block, mesh=mesh, reshard_after_forward=not keep)
    fully_shard(model, mesh=mesh, reshard_after_forward=False)  # the backward begins with what the forward ends with
    register_fsdp_forward_method(model, "loss")
    for unit in model.modules():
        if isinstance(unit, FSDPModule):
            # Each rank's loss is its share of the batch's: gradients are added, not averaged.
            unit.set_force_sum_reduction_for_comms(True)
            unit.set_gradient_divide_factor(1.0)


def let_go(model: MambaLM) -> None:
    """Free what forwards without a backward have gathered. Until then the parameters of a spread model are the gathered ones."""
    for unit in model.modules():
        reshard = getattr(unit, "reshard", None)  # FSDPModule's
        if callable(reshard):
            reshard()


def keeps_gathered(model: MambaLM, device: str) -> bool:
    """Whether a GPU has room to keep the gathered weights; the same on GPUs of one kind."""
    if device != "cuda":
        return False
    whole = WEIGHT_BYTES * sum(parameter.numel() for parameter in model.parameters())
    return whole <= KEPT_SHARE * torch.cuda.get_device_properties(0).total_memory


def whole(value: Tensor) -> Tensor:
    """What a tensor is that may be spread, which all ranks are to ask for."""
    found: Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value
    return found
