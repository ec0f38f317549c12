"""Weights for others: a safetensors file and a configuration as mamba_ssm's MambaLMHeadModel takes them. No torch."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from adam.contract.config_file import config_digest, load_config
from adam.contract.errors import CheckpointError, ConfigError
from adam.contract.model import ModelConfig, parameter_count, resolved
from adam.contract.paths import RunPaths
from adam.contract.slots import SlotHead, TensorEntry
from adam.contract.whole import Whole

CONFIG = "config.json"
EMBEDDING, HEAD = "backbone.embedding.weight", "lm_head.weight"
OF_MODEL = "model."
DTYPES = {"fp32": "F32", "bf16": "BF16"}
BLOCK = 1 << 24
# mamba_ssm's MambaConfig can't say it: MambaLMHeadModel computes with this one.
THEIR_EPSILON = 1e-5


def shape_of(paths: RunPaths, checkpoint: Path, head: SlotHead, tensors: dict[str, Whole]) -> ModelConfig:
    """The resolved shape of the checkpoint's model. Raises ConfigError where the run's configuration is of another one."""
    embedding = tensors.get(OF_MODEL + EMBEDDING)
    if embedding is None:
        raise CheckpointError(f"{checkpoint} has no tensor {OF_MODEL}{EMBEDDING}")
    ids = embedding.entry.shape[0]
    shape = resolved(msgspec.structs.replace(load_config(paths.lock).model, vocab_size=ids), ids)
    if config_digest(shape) != head.config_digest:
        raise ConfigError(f"{checkpoint} is of another model than {paths.lock} describes")
    return shape


def metadata_of(checkpoint: Path, head: SlotHead, shape: ModelConfig) -> dict[str, str]:
    """What the file says of itself; `format` is for transformers."""
    return {
        "format": "pt",
        "checkpoint": checkpoint.name,
        "step": str(head.step),
        "tokens": str(head.tokens),
        "norm_epsilon": repr(shape.norm_epsilon),
    }


def weights_of(tensors: dict[str, Whole], shape: ModelConfig) -> dict[str, Whole]:
    """The tensors of a model by mamba_ssm's names, which are ours. Raises CheckpointError where they are not those of `shape`.

    A tied output layer is written too, as a copy of the embedding: `load_state_dict` wants both names.
    """
    found = {name.removeprefix(OF_MODEL): whole for name, whole in tensors.items() if name.startswith(OF_MODEL)}
    counted = sum(whole.entry.nbytes for whole in found.values()) // 4
    if counted != parameter_count(shape) or any(whole.entry.dtype != "F32" for whole in found.values()):
        raise CheckpointError(
            f"the checkpoint's {counted:,} weights are not the {parameter_count(shape):,} fp32 ones of the model"
        )
    return {**found, HEAD: found[EMBEDDING]} if shape.tie_embeddings else found


def mamba_config(shape: ModelConfig) -> dict[str, Any]:
    """The fields of mamba_ssm's MambaConfig for a resolved shape."""
    ssm: dict[str, Any] = {"d_state": shape.d_state, "d_conv": shape.d_conv, "expand": shape.expand}
    if shape.arch == "mamba1":
        ssm = {"layer": "Mamba1", **ssm, "dt_rank": shape.dt_rank}
    else:
        of_heads = {"headdim": shape.headdim, "ngroups": shape.ngroups, "chunk_size": shape.chunk_size}
        ssm = {"layer": "Mamba2", **ssm, **of_heads}
    return {
        "d_model": shape.d_model,
        "d_intermediate": 0,
        "n_layer": shape.n_layer,
        "vocab_size": shape.vocab_size,
        "ssm_cfg": ssm,
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": shape.pad_vocab_multiple,
        "tie_embeddings": shape.tie_embeddings,
    }


def header_of(weights: dict[str, Whole], dtype: str, metadata: dict[str, str]) -> bytes:
    """The beginning of a safetensors file: the length of the table of tensors, and the table."""
    table: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for name, whole in weights.items():
        size = TensorEntry(name, DTYPES[dtype], whole.entry.shape).nbytes
        table[name] = {
            "dtype": DTYPES[dtype],
            "shape": whole.entry.shape,
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(table, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text


def size_of(weights: dict[str, Whole], dtype: str) -> int:
    """Bytes of the tensors."""
    return sum(TensorEntry(name, DTYPES[dtype], whole.entry.shape).nbytes for name, whole in weights.items())


def write_weights(
    path: Path, weights: dict[str, Whole], dtype: str, metadata: dict[str, str], told: Callable[[int], None]
) -> None:
    """Write the file, durably. `told` hears of each so many bytes."""
    with path.open("xb") as file:
        file.write(header_of(weights, dtype, metadata))
        for block in converted(weights, dtype):
            file.write(block)
            told(len(block))
        file.flush()
        os.fsync(file.fileno())


def converted(weights: dict[str, Whole], dtype: str) -> Iterator[bytes]:
    for whole in weights.values():
        for block in whole.blocks(BLOCK):
            yield block if dtype == "fp32" else to_bf16(block)


def to_bf16(data: bytes) -> bytes:
    """bf16 of fp32, both little-endian: rounded to the nearest, ties to even, as torch does. What is no number stays none."""
    bits = np.frombuffer(data, dtype="<u4")
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    no_number = (bits & 0x7FFFFFFF) > 0x7F800000
    return np.where(no_number, 0x7FC0, rounded).astype("<u2").tobytes()
