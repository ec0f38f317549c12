"""Public weights into a model that begins: mamba_ssm's pytorch_model.bin, or safetensors of mamba_ssm, transformers or our own export."""

import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from adam.contract.errors import ConfigError, DataError
from adam.contract.foreign import WEIGHT_FILES, differences, foreign_shape, index_files, our_name
from adam.contract.model import ModelConfig
from adam.contract.weights import CONFIG, EMBEDDING, HEAD
from adam.trainer.model.lm import MambaLM

log = structlog.get_logger()


def begin_with(folder: Path, model: MambaLM, shape: ModelConfig, beat: Callable[[], None]) -> None:
    """Fill the model's weights from a folder. shape: the model's, resolved. `beat` is called after each weight.

    Raises ConfigError where they are of another shape, DataError where one is missing, too many, or can't be read.
    """
    if found := differences(foreign_shape(folder), shape):
        raise ConfigError(
            f"the weights in {folder} are of another shape than [model]: {', '.join(found)}",
            "make [model] that of the weights",
        )
    wanted: dict[str, Tensor] = dict(model.named_parameters())
    filled: set[str] = set()
    heads = []
    for name, tensor in _tensors(folder):
        if name == HEAD and shape.tie_embeddings:
            heads.append(tensor)
            continue
        _fill(folder, name, tensor, wanted)
        filled.add(name)
        beat()
    for head in heads:  # a copy of the embedding; some writers leave out the other one
        if EMBEDDING not in filled:
            _fill(folder, EMBEDDING, head, wanted)
            filled.add(EMBEDDING)
        elif not torch.equal(head.to(wanted[EMBEDDING]), wanted[EMBEDDING]):
            raise ConfigError(f"{HEAD} in {folder} is not the embedding, though its {CONFIG} ties them", "say so there")
    if missing := [name for name in wanted if name not in filled]:
        raise DataError(
            f"the weights in {folder} have no {missing[0]} ({len(missing)} of {len(wanted)} are missing)",
            "is a shard of them missing?",
        )
    log.info("weights", taken_from=str(folder), tensors=len(filled))


@torch.no_grad()
def _fill(folder: Path, name: str, tensor: Tensor, wanted: dict[str, Tensor]) -> None:
    target = wanted.get(name)
    if target is None:
        raise DataError(f"the weights in {folder} have {name}, and the model has no such weight")
    if tensor.shape != target.shape:
        raise ConfigError(f"{name} in {folder} is {tuple(tensor.shape)}, the model has {tuple(target.shape)}")
    target.copy_(tensor)


def _tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """All weights of a folder, by our names."""
    file = next((folder / name for name in WEIGHT_FILES if (folder / name).exists()), None)
    if file is None:
        raise DataError(f"there are no weights in {folder}", f"one of {', '.join(WEIGHT_FILES)} must be there")
    try:
        shards = index_files(file) if file.suffix == ".json" else [file]
        for shard in shards:
            if not shard.exists():
                raise DataError(f"{shard} is missing", f"{file.name} names it: fetch it again")
            for name, tensor in _of_safetensors(shard) if shard.suffix == ".safetensors" else _of_pickle(shard):
                yield our_name(name), tensor
    except (OSError, ValueError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise DataError(f"the weights in {folder} can't be read: {str(error).splitlines()[0]}") from error


def _of_safetensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  (it is no dict)
            yield name, file.get_tensor(name)


def _of_pickle(path: Path) -> Iterator[tuple[str, Tensor]]:
    """weights_only: tensors, and nothing that could run."""
    found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise ValueError(f"{path.name} has no table of weights")
    yield from found.items()
