"""The shape of public weights, as mamba_ssm and as transformers write it into config.json. No torch.

What a configuration says and we can't compute is refused: weights that load and give other logits are worse than none.
"""

import json
from pathlib import Path
from typing import Any

import msgspec

from adam.contract.errors import ConfigError, DataError
from adam.contract.model import ModelConfig, resolved
from adam.contract.weights import CONFIG, THEIR_EPSILON

# In the order in which they are looked for; an index names the files of several.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# transformers' key -> ours, and what transformers takes where the key is missing.
OF_BOTH: dict[str, tuple[str, Any]] = {
    "hidden_size": ("d_model", 768),
    "num_hidden_layers": ("n_layer", 32),
    "vocab_size": ("vocab_size", 50280),
    "state_size": ("d_state", 16),
    "conv_kernel": ("d_conv", 4),
    "expand": ("expand", 2),
    "layer_norm_epsilon": ("norm_epsilon", 1e-5),
    "tie_word_embeddings": ("tie_embeddings", True),
}
TRANSFORMERS: dict[str, dict[str, tuple[str, Any]]] = {
    "mamba": {**OF_BOTH, "time_step_rank": ("dt_rank", "auto")},
    "mamba2": {
        **OF_BOTH,
        "hidden_size": ("d_model", 4096),
        "num_hidden_layers": ("n_layer", 64),
        "vocab_size": ("vocab_size", 32768),
        "state_size": ("d_state", 128),
        "tie_word_embeddings": ("tie_embeddings", False),
        "head_dim": ("headdim", 64),
        "n_groups": ("ngroups", 8),
        "chunk_size": ("chunk_size", 256),
    },
}
ARCHITECTURES = {"mamba": "mamba1", "mamba2": "mamba2"}
CLASSES = {"mamba": "MambaForCausalLM", "mamba2": "Mamba2ForCausalLM"}
# Other values make another model.
TRANSFORMERS_FIXED = {"use_bias": False, "use_conv_bias": True, "hidden_act": "silu"}
MAMBA_SSM_FIXED = {"rms_norm": True, "d_intermediate": 0, "attn_layer_idx": []}
SSM_FIXED = {"bias": False, "conv_bias": True, "rmsnorm": True, "norm_before_gate": False, "D_has_hdim": False}
NO_LIMITS = ([0.0, float("inf")], [0.0, {"__float__": "Infinity"}])  # the second as transformers 5 writes it
SSM = ("d_state", "d_conv", "expand", "dt_rank", "headdim", "ngroups", "chunk_size")


def index_files(index: Path) -> list[Path]:
    """The files that an index names, beside it. Raises DataError."""
    try:
        said = json.loads(index.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{index} can't be read: {error}") from None
    names = said.get("weight_map") if isinstance(said, dict) else None
    if not isinstance(names, dict) or not names:
        raise DataError(f"{index} names no files")
    return [index.with_name(Path(str(name)).name) for name in sorted(set(names.values()))]


def foreign_shape(folder: Path) -> ModelConfig:
    """The resolved shape that a folder's config.json describes. Raises ConfigError where there is none, or none that we compute."""
    path = folder / CONFIG
    try:
        said = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(
            f"there is no {path}", "a folder of weights has config.json and safetensors or pytorch_model.bin"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from None
    if not isinstance(said, dict):
        raise ConfigError(f"{path} is not a configuration: it has no keys")
    values = _of_transformers(path, said) if "model_type" in said else _of_mamba_ssm(path, said)
    try:
        shape = msgspec.convert({key: value for key, value in values.items() if value != "auto"}, ModelConfig)
        return resolved(shape, shape.vocab_size)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(f"{path} describes no model of ours: {error}") from None


def _of_transformers(path: Path, said: dict[str, Any]) -> dict[str, Any]:
    kind = said["model_type"]
    if kind not in TRANSFORMERS:
        raise ConfigError(f"{path} has model_type = {kind!r}", f"Adam loads {' and '.join(TRANSFORMERS)}")
    _refuse_others(path, said, TRANSFORMERS_FIXED)
    values = {ours: said.get(theirs, default) for theirs, (ours, default) in TRANSFORMERS[kind].items()}
    inner = values["expand"] * values["d_model"]
    heads = said.get("num_heads", inner // values.get("headdim", 1))
    if kind == "mamba2" and heads * values["headdim"] != inner:
        raise ConfigError(
            f"{path} has {heads} heads of {values['headdim']} channels",
            f"together they must be {inner} (expand x hidden_size)",
        )
    if said.get("time_step_limit", NO_LIMITS[0]) not in NO_LIMITS:
        raise ConfigError(f"{path} has time_step_limit = {said['time_step_limit']}", "Adam limits no steps")
    return {"arch": ARCHITECTURES[kind], "pad_vocab_multiple": 1, **values}


def _of_mamba_ssm(path: Path, said: dict[str, Any]) -> dict[str, Any]:
    missing = [key for key in ("d_model", "n_layer", "vocab_size") if key not in said]
    if missing:
        raise ConfigError(f"{path} has no {missing[0]}", "it is neither mamba_ssm's configuration nor transformers'")
    ssm = dict(said.get("ssm_cfg") or {})
    layer = ssm.pop("layer", "Mamba1")
    if layer not in ("Mamba1", "Mamba2"):
        raise ConfigError(f"{path} has ssm_cfg.layer = {layer!r}", "Adam loads Mamba1 and Mamba2")
    _refuse_others(path, said, MAMBA_SSM_FIXED)
    _refuse_others(path, ssm, SSM_FIXED)
    unknown = [key for key in ssm if key not in (*SSM, *SSM_FIXED)]
    if unknown:
        raise ConfigError(
            f"{path} has ssm_cfg.{unknown[0]} = {ssm[unknown[0]]!r}", "Adam does not know what it changes"
        )
    return {
        "arch": layer.lower(),
        "d_model": said["d_model"],
        "n_layer": said["n_layer"],
        "vocab_size": said["vocab_size"],
        "pad_vocab_multiple": said.get("pad_vocab_size_multiple", 8),
        "tie_embeddings": said.get("tie_embeddings", True),
        "norm_epsilon": THEIR_EPSILON,
        **{key: value for key, value in ssm.items() if key in SSM},
    }


def _refuse_others(path: Path, said: dict[str, Any], fixed: dict[str, Any]) -> None:
    for key, value in fixed.items():
        if said.get(key, value) != value:
            raise ConfigError(f"{path} has {key} = {said[key]!r}", f"Adam computes with {value!r}")


def transformers_config(shape: ModelConfig, dtype: str) -> dict[str, Any]:
    """config.json for transformers of a resolved shape. dtype: fp32 or bf16."""
    kind = next(kind for kind, arch in ARCHITECTURES.items() if arch == shape.arch)
    fields = {theirs: getattr(shape, ours) for theirs, (ours, _) in TRANSFORMERS[kind].items()}
    if shape.arch == "mamba2":
        fields["num_heads"] = shape.d_inner // shape.headdim
    return {
        "model_type": kind,
        "architectures": [CLASSES[kind]],
        "torch_dtype": {"fp32": "float32", "bf16": "bfloat16"}[dtype],
        **TRANSFORMERS_FIXED,
        **fields,
    }


def their_name(name: str) -> str:
    """transformers' name of a weight of ours: all are mamba_ssm's but one."""
    return name.replace("backbone.embedding.", "backbone.embeddings.")


def our_name(name: str) -> str:
    return name.replace("backbone.embeddings.", "backbone.embedding.")


def differences(weights: ModelConfig, model: ModelConfig) -> list[str]:
    """Lines of `key = theirs there, ours here` for what makes weights of one shape unfit for the other. Both resolved."""
    of_arch = {"mamba1": ("dt_rank",), "mamba2": ("headdim", "ngroups")}
    keys = ("arch", "d_model", "n_layer", "vocab_size", "d_state", "d_conv", "expand", "norm_epsilon", "tie_embeddings")
    return [
        f"{key} = {getattr(weights, key)!r} there, {getattr(model, key)!r} here"
        for key in (*keys, *of_arch[weights.arch])
        if getattr(weights, key) != getattr(model, key)
    ]
