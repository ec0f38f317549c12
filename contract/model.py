"""The shape of a model: its configuration, the presets with their true parameter counts. No torch."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The shape of a Mamba language model; the names are mamba_ssm's. A 0 is filled in by `resolved`."""

    arch: Annotated[
        Literal["mamba1", "mamba2"], Meta(description="Mamba (arXiv 2312.00752) or Mamba-2 (arXiv 2405.21060)")
    ] = "mamba1"
    d_model: Annotated[int, Meta(ge=1, description="width of the residual stream")] = 256
    n_layer: Annotated[int, Meta(ge=1, description="number of blocks")] = 4
    vocab_size: Annotated[int, Meta(ge=0, description="ids the model knows; 0: the tokenizer's size, padded")] = 0
    pad_vocab_multiple: Annotated[int, Meta(ge=1, description="the vocabulary is padded to a multiple of this")] = 8
    d_state: Annotated[int, Meta(ge=0, description="state per channel; 0: 16 for mamba1, 128 for mamba2")] = 0
    d_conv: Annotated[int, Meta(ge=2, le=4, description="width of the causal convolution")] = 4
    expand: Annotated[int, Meta(ge=1, description="inner width is expand times d_model")] = 2
    dt_rank: Annotated[
        int, Meta(ge=0, description="rank of the step size's projection; 0: d_model / 16, rounded up (mamba1)")
    ] = 0
    headdim: Annotated[int, Meta(ge=1, description="channels of a head (mamba2)")] = 64
    ngroups: Annotated[int, Meta(ge=1, description="groups that share B and C (mamba2)")] = 1
    chunk_size: Annotated[int, Meta(ge=1, description="tokens computed at once by the dual form (mamba2)")] = 256
    norm_epsilon: Annotated[float, Meta(gt=0, description="added to the mean square in norms")] = 1e-5
    tie_embeddings: Annotated[bool, Meta(description="the output layer is the embedding, transposed")] = True

    @property
    def d_inner(self) -> int:
        return self.expand * self.d_model

    def problems(self) -> list[str]:
        """Lines of `key = value: what is allowed` for fields that do not go together."""
        found = []
        if self.arch == "mamba2":
            if self.d_inner % self.headdim:
                found.append(f"headdim = {self.headdim}: must divide expand * d_model = {self.d_inner}")
            elif (self.d_inner // self.headdim) % self.ngroups:
                found.append(f"ngroups = {self.ngroups}: must divide the {self.d_inner // self.headdim} heads")
        return found


def resolved(config: ModelConfig, tokenizer_size: int) -> ModelConfig:
    """`config` with every 0 filled in and the vocabulary padded.

    Raises ValueError where the vocabulary is smaller than the tokenizer's.
    """
    wanted = config.vocab_size or tokenizer_size
    if wanted < tokenizer_size:
        raise ValueError(f"model.vocab_size = {wanted}: the tokenizer has {tokenizer_size} ids")
    multiple = config.pad_vocab_multiple
    return msgspec.structs.replace(
        config,
        vocab_size=-(-wanted // multiple) * multiple,
        d_state=config.d_state or (16 if config.arch == "mamba1" else 128),
        dt_rank=config.dt_rank or -(-config.d_model // 16),
    )


def parameter_count(config: ModelConfig) -> int:
    """The parameters of a resolved shape, counted as mamba_ssm does (a tied output layer once)."""
    block = (_mamba1_block if config.arch == "mamba1" else _mamba2_block)(config)
    embedding = config.vocab_size * config.d_model
    heads = embedding if config.tie_embeddings else 2 * embedding
    return heads + config.n_layer * (block + config.d_model) + config.d_model


def _mamba1_block(config: ModelConfig) -> int:
    inner, state, rank = config.d_inner, config.d_state, config.dt_rank
    projections = 2 * inner * config.d_model + inner * (rank + 2 * state) + rank * inner + inner * config.d_model
    return projections + inner * config.d_conv + inner + inner + inner * state + inner


def _mamba2_block(config: ModelConfig) -> int:
    inner, heads = config.d_inner, config.d_inner // config.headdim
    mixed = inner + 2 * config.ngroups * config.d_state
    projections = config.d_model * (inner + mixed + heads) + inner * config.d_model
    return projections + mixed * config.d_conv + mixed + 3 * heads + inner


def projections(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """The large matrices of a block, by name: (outputs, inputs)."""
    inner = config.d_inner
    into = 2 * inner
    if config.arch == "mamba2":
        into += 2 * config.ngroups * (config.d_state or 128) + inner // config.headdim
    return {"in_proj": (into, config.d_model), "out_proj": (config.d_model, inner)}


def _upstream(arch: Literal["mamba1", "mamba2"], d_model: int, n_layer: int) -> ModelConfig:
    """A size as published: GPT-NeoX's 50,277 ids, padded to a multiple of 8 (Mamba) or 16 (Mamba-2)."""
    multiple = 8 if arch == "mamba1" else 16
    return ModelConfig(
        arch=arch,
        d_model=d_model,
        n_layer=n_layer,
        vocab_size=-(-50277 // multiple) * multiple,
        pad_vocab_multiple=multiple,
    )


PRESETS: dict[str, ModelConfig] = {
    "tiny": ModelConfig(d_model=192, n_layer=4),
    "130m": _upstream("mamba1", 768, 24),
    "370m": _upstream("mamba1", 1024, 48),
    "790m": _upstream("mamba1", 1536, 48),
    "1.4b": _upstream("mamba1", 2048, 48),
    "2.7b": _upstream("mamba1", 2560, 64),
    "mamba2-130m": _upstream("mamba2", 768, 24),
    "mamba2-370m": _upstream("mamba2", 1024, 48),
    "mamba2-780m": _upstream("mamba2", 1536, 48),
    "mamba2-1.3b": _upstream("mamba2", 2048, 48),
    "mamba2-2.7b": _upstream("mamba2", 2560, 64),
}
