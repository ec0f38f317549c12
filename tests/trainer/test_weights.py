"""Public weights to begin with: the forms in which they are published, and what can't be used said in one line."""

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import save_file
from small_run import make_run, small_config, write_plan

from adam.contract.config import Config
from adam.contract.errors import AdamError, ConfigError, DataError
from adam.contract.foreign import their_name, transformers_config
from adam.contract.model import PRESETS, ModelConfig, resolved
from adam.contract.weights import mamba_config
from adam.trainer.attempt import run_attempt
from adam.trainer.model.lm import MambaLM
from adam.trainer.ops.reference import ReferenceOps
from adam.trainer.weights import begin_with

SHAPES = {
    "mamba1": ModelConfig(d_model=16, n_layer=2, vocab_size=48, pad_vocab_multiple=1),
    "mamba1 untied": ModelConfig(d_model=16, n_layer=2, vocab_size=48, d_state=5, d_conv=3, expand=3, tie_embeddings=False),
    "mamba2": ModelConfig(arch="mamba2", d_model=16, n_layer=2, vocab_size=48, d_state=8, headdim=8, pad_vocab_multiple=16),
    "mamba2 of groups": ModelConfig(
        arch="mamba2", d_model=16, n_layer=2, vocab_size=48, d_state=8, headdim=8, ngroups=2, tie_embeddings=False
    ),
}  # fmt: skip


def made(shape: ModelConfig, seed: int = 0) -> MambaLM:
    """Its vectors are drawn too: what is 1 or 0 in every new model would show no mistake."""
    torch.manual_seed(seed)
    model = MambaLM(shape, ReferenceOps())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def logits(model: MambaLM) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(48).view(2, 24))


def loaded(folder: Path, shape: ModelConfig) -> torch.Tensor:
    model = made(shape, seed=1)
    beats = []
    begin_with(folder, model, shape, lambda: beats.append(1))
    assert len(beats) >= len(list(model.parameters())) - 1
    return logits(model)


def write(folder: Path, shape: ModelConfig, form: str) -> MambaLM:
    """A model in that form."""
    folder.mkdir(exist_ok=True)
    model = made(shape)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    config: dict[str, Any] = mamba_config(shape)
    if form.endswith(".bin"):
        half = len(weights) // 2
        parts = [dict(list(weights.items())[:half]), dict(list(weights.items())[half:])]
        if form == "pytorch_model.bin":
            torch.save(weights, folder / form)
        else:
            for number, part in enumerate(parts):
                torch.save(part, folder / f"pytorch_model-{number}.bin")
            names = {name: f"pytorch_model-{number}.bin" for number, part in enumerate(parts) for name in part}
            (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    else:
        config = transformers_config(shape, "fp32")
        if shape.tie_embeddings:
            del weights["lm_head.weight"]
        save_file({their_name(name): value for name, value in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return model


@pytest.mark.parametrize("form", ["pytorch_model.bin", "sharded.bin", "transformers"])
@pytest.mark.parametrize("name", SHAPES)
def test_every_form_gives_the_same_logits(tmp_path, name: str, form: str) -> None:
    shape = resolved(SHAPES[name], 48)
    written = write(tmp_path, shape, form)
    assert torch.equal(loaded(tmp_path, shape), logits(written))


@pytest.mark.parametrize("name", SHAPES)
def test_transformers_own_weights_give_transformers_logits(tmp_path, name: str) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    shape = resolved(SHAPES[name], 48)
    config = transformers.AutoConfig.for_model(**transformers_config(shape, "fp32"))
    torch.manual_seed(3)
    theirs = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        theirs.save_pretrained(tmp_path)
        right = theirs.eval()(torch.arange(48).view(2, 24)).logits
    torch.testing.assert_close(loaded(tmp_path, shape), right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_transformers_takes_ours(tmp_path, name: str) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    shape = resolved(SHAPES[name], 48)
    ours = logits(write(tmp_path, shape, "transformers"))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        found = theirs(torch.arange(48).view(2, 24)).logits
    torch.testing.assert_close(ours, found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("preset", "said"),
    [
        ("2.7b", {"d_model": 2560, "n_layer": 64, "vocab_size": 50277, "ssm_cfg": {}, "rms_norm": True,
                  "residual_in_fp32": True, "fused_add_norm": True, "pad_vocab_size_multiple": 8}),
        ("mamba2-2.7b", {"d_model": 2560, "d_intermediate": 0, "n_layer": 64, "vocab_size": 50277, "ssm_cfg": {"layer": "Mamba2"},
                         "attn_layer_idx": [], "attn_cfg": {}, "rms_norm": True, "residual_in_fp32": True, "fused_add_norm": True,
                         "pad_vocab_size_multiple": 16, "tie_embeddings": True}),
        ("130m", {"model_type": "mamba", "hidden_size": 768, "num_hidden_layers": 24, "state_size": 16, "conv_kernel": 4, "expand": 2,
                  "time_step_rank": 48, "vocab_size": 50280, "layer_norm_epsilon": 1e-5, "use_bias": False, "use_conv_bias": True,
                  "hidden_act": "silu", "d_inner": 1536, "ssm_cfg": {}}),
    ],
)  # fmt: skip
def test_published_configurations_are_our_presets(tmp_path, preset: str, said: dict[str, Any]) -> None:
    from adam.contract.foreign import differences, foreign_shape

    (tmp_path / "config.json").write_text(json.dumps(said))
    assert differences(foreign_shape(tmp_path), resolved(PRESETS[preset], 0)) == []


def edited(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


class Evil:
    def __reduce__(self):
        return print, ("a pickle that runs",)


def remove(folder: Path) -> None:
    (folder / "pytorch_model-1.bin").unlink()


def cut_off(folder: Path) -> None:
    path = folder / "pytorch_model-1.bin"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def leave_one_out(folder: Path) -> None:
    path = folder / "pytorch_model-1.bin"
    torch.save({k: v for k, v in torch.load(path).items() if not k.endswith("layers.1.mixer.D")}, path)


def one_too_many(folder: Path) -> None:
    path = folder / "pytorch_model-1.bin"
    torch.save(torch.load(path) | {"backbone.layers.2.mixer.D": torch.zeros(3)}, path)


def two_heads(folder: Path) -> None:
    path = folder / "pytorch_model-1.bin"
    torch.save(torch.load(path) | {"lm_head.weight": torch.zeros(48, 16)}, path)


@pytest.mark.parametrize(
    ("spoil", "kind", "said"),
    [
        (remove, DataError, "pytorch_model-1.bin is missing; pytorch_model.bin.index.json names it"),
        (cut_off, DataError, "can't be read"),
        (leave_one_out, DataError, "have no backbone.layers.1.mixer.D .1 of .* is a shard of them missing"),
        (one_too_many, DataError, "have backbone.layers.2.mixer.D, and the model has no such weight"),
        (two_heads, ConfigError, "lm_head.weight in .* is not the embedding"),
        (lambda folder: torch.save({"x": Evil()}, folder / "pytorch_model-1.bin"), DataError, "can't be read"),
        (lambda folder: (folder / "pytorch_model.bin.index.json").write_text("{}"), DataError, "names no files"),
        (lambda folder: (folder / "pytorch_model.bin.index.json").unlink(), DataError, "there are no weights in"),
        (lambda folder: (folder / "config.json").unlink(), ConfigError, "there is no .*config.json"),
        (lambda folder: (folder / "config.json").write_text("["), ConfigError, "config.json can't be read"),
        (lambda folder: (folder / "config.json").write_text("[]"), ConfigError, "is not a configuration"),
        (lambda folder: edited(folder, d_model=32), ConfigError, r"another shape .* d_model = 32 there, 16 here"),
        (lambda folder: edited(folder, d_model="wide"), ConfigError, "describes no model of ours: .*d_model"),
        (lambda folder: edited(folder, attn_layer_idx=[3]), ConfigError, r"attn_layer_idx = \[3\]; Adam computes with \[\]"),
        (lambda folder: edited(folder, rms_norm=False), ConfigError, "rms_norm = False"),
        (lambda folder: edited(folder, ssm_cfg={"layer": "Mamba3"}), ConfigError, "ssm_cfg.layer = 'Mamba3'"),
        (lambda folder: edited(folder, ssm_cfg={"new": 1}), ConfigError, "ssm_cfg.new = 1; Adam does not know"),
        (lambda folder: edited(folder, model_type="llama"), ConfigError, "model_type = 'llama'; Adam loads mamba and mamba2"),
    ],
)  # fmt: skip
def test_what_can_not_be_used_is_said_in_a_line(tmp_path, spoil, kind: type[AdamError], said: str, capfd) -> None:
    shape = resolved(SHAPES["mamba1"], 48)
    write(tmp_path, shape, "sharded.bin")
    spoil(tmp_path)
    with pytest.raises(kind, match=said) as raised:
        loaded(tmp_path, shape)
    assert len(str(raised.value).splitlines()) == 1
    assert "a pickle that runs" not in capfd.readouterr().out


def losses(root: Path, config: Config) -> list[float]:
    paths = make_run(root, config)
    write_plan(paths)
    run_attempt(paths.root, 1, lambda: False)
    return [json.loads(line)["loss"] for line in paths.steps.read_text().splitlines()]


def test_a_run_begins_with_them(tmp_path) -> None:
    config = small_config(steps=2)
    paths = make_run(tmp_path / "made", config)
    from adam.trainer.data import open_data

    shape = resolved(config.model, open_data(paths, config.trainer.seq_len).manifest.vocab_size)
    folder = tmp_path / "weights"
    folder.mkdir()
    torch.manual_seed(0)
    weights = {name: torch.zeros_like(value) for name, value in MambaLM(shape, ReferenceOps()).state_dict().items()}
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(mamba_config(shape)))
    begun = msgspec.structs.replace(config, trainer=msgspec.structs.replace(config.trainer, weights="../weights"))
    assert losses(tmp_path / "run", begun)[0] == pytest.approx(math.log(shape.vocab_size))
    assert losses(tmp_path / "drawn", config)[0] != pytest.approx(math.log(shape.vocab_size), rel=1e-6)
