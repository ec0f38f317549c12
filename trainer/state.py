"""The whole state of training as named tensors: what a snapshot holds, and in which parts where several ranks share it."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from adam.contract.slots import Part
from adam.trainer.model.lm import MambaLM
from adam.trainer.optim import moments


def trained_state(model: MambaLM, optimizer: torch.optim.AdamW) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of all that updates change in place: weights and both moments. The tensors stay the same ones.

    Tensors that FSDP2 has spread over the ranks are DTensors.
    """
    for name, parameter in model.named_parameters():
        yield f"model.{name}", parameter.detach()
    yield from moments(model, optimizer)


def random_state() -> dict[str, Tensor]:
    """The states of the random generators, in the host's memory: copies, as they are now."""
    found = {"rng.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        found["rng.cuda"] = torch.cuda.get_rng_state()
    return found


def own_part(tensor: Tensor) -> tuple[Tensor, Part | None]:
    """(what this rank has of `tensor`, which part that is; None: all of it).

    A DTensor is spread along its first dimension over a mesh of one dimension, as FSDP2 does; ranks at the end may have no rows.
    """
    if not hasattr(tensor, "to_local"):
        return tensor, None
    spread: Any = tensor
    (placement,) = spread.placements
    if not placement.is_shard(0):
        return spread.to_local(), None
    ranks, rank = spread.device_mesh.size(), spread.device_mesh.get_local_rank()
    rows = spread.shape[0]
    chunk = -(-rows // ranks)
    return spread.to_local(), Part(tuple(spread.shape), min(rows, rank * chunk))
