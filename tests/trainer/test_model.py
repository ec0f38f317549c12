"""The model: mamba_ssm's names and counts, causal, blind across documents, and able to learn."""

import math

import pytest
import torch

from adam.contract.model import PRESETS, ModelConfig, parameter_count, resolved
from adam.trainer.model.lm import MambaLM
from adam.trainer.ops.reference import ReferenceOps

ARCHS = ["mamba1", "mamba2"]
MIXER = {
    "mamba1": {
        "in_proj.weight", "conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight", "dt_proj.bias", "A_log", "D",
        "out_proj.weight",
    },
    "mamba2": {"in_proj.weight", "conv1d.weight", "conv1d.bias", "dt_bias", "A_log", "D", "norm.weight", "out_proj.weight"},
}  # fmt: skip


def small(arch: str, **changes) -> ModelConfig:
    return resolved(
        ModelConfig(
            **{"arch": arch, "d_model": 32, "n_layer": 2, "d_state": 8, "headdim": 16, "chunk_size": 8, **changes}
        ),
        50,
    )


def build(config: ModelConfig, seed: int = 0) -> MambaLM:
    torch.manual_seed(seed)
    return MambaLM(config, ReferenceOps())


@pytest.mark.parametrize("arch", ARCHS)
def test_names_are_those_of_mamba_ssm(arch: str) -> None:
    model = build(small(arch))
    wanted = {"backbone.embedding.weight", "backbone.norm_f.weight", "lm_head.weight"}
    for layer in range(2):
        wanted |= {f"backbone.layers.{layer}.norm.weight"} | {
            f"backbone.layers.{layer}.mixer.{name}" for name in MIXER[arch]
        }
    assert set(model.state_dict()) == wanted
    assert model.lm_head.weight is model.backbone.embedding.weight


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_counts_that_they_say(name: str) -> None:
    config = resolved(PRESETS[name], 50277 if PRESETS[name].vocab_size else 4096)
    with torch.device("meta"):
        counted = sum(parameter.numel() for parameter in MambaLM(config, ReferenceOps()).parameters())
    assert counted == parameter_count(config)


def test_the_published_sizes() -> None:
    counts = {name: parameter_count(resolved(PRESETS[name], 50277)) for name in ("130m", "2.7b")}
    assert counts == {"130m": 129_135_360, "2.7b": 2_768_345_600}
    assert resolved(PRESETS["2.7b"], 50277).vocab_size == 50280


def test_untied_embeddings_are_counted_twice() -> None:
    config = small("mamba1", tie_embeddings=False)
    assert sum(p.numel() for p in build(config).parameters()) == parameter_count(config)


@pytest.mark.parametrize("arch", ARCHS)
def test_changing_a_token_changes_nothing_before_it(arch: str) -> None:
    model = build(small(arch))
    tokens = torch.randint(0, 50, (1, 24), generator=torch.Generator().manual_seed(1))
    resets = torch.zeros(1, 24, dtype=torch.bool)
    resets[0, [5, 17]] = True
    before = model(tokens, resets)
    for t in range(24):
        changed = tokens.clone()
        changed[0, t] = (changed[0, t] + 1) % 50
        after = model(changed, resets)
        assert torch.equal(before[:, :t], after[:, :t]), t
        assert not torch.equal(before[:, t], after[:, t])


@pytest.mark.parametrize("arch", ARCHS)
def test_packed_documents_do_not_see_one_another(arch: str) -> None:
    model = build(small(arch)).double()
    tokens = torch.randint(0, 50, (1, 24), generator=torch.Generator().manual_seed(1))
    resets = torch.zeros(1, 24, dtype=torch.bool)
    resets[0, [0, 9, 10]] = True
    packed = model(tokens, resets)
    apart = torch.cat([model(tokens[:, part]) for part in (slice(0, 9), slice(9, 10), slice(10, 24))], dim=1)
    torch.testing.assert_close(packed, apart)


@pytest.mark.parametrize("arch", ARCHS)
def test_a_sequence_does_not_see_the_others_of_its_batch(arch: str) -> None:
    model = build(small(arch)).double()
    tokens = torch.randint(0, 50, (3, 12), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model(tokens)[1:2], model(tokens[1:2]))


@pytest.mark.parametrize("arch", ARCHS)
def test_first_weights_are_mamba_ssms(arch: str) -> None:
    model = build(small(arch, d_model=64, n_layer=4))
    mixer = model.backbone.layers[0].mixer
    bias = mixer.dt_proj.bias if arch == "mamba1" else mixer.dt_bias
    steps = torch.nn.functional.softplus(bias.detach())
    assert steps.min() >= 1e-4 and steps.max() <= 0.1 + 1e-6
    assert float(model.backbone.embedding.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert mixer.out_proj.weight.abs().max() <= 1 / math.sqrt(128) / math.sqrt(4) + 1e-6
    if arch == "mamba1":
        torch.testing.assert_close(mixer.A_log[3].exp(), torch.arange(1.0, 9.0))
    else:
        assert mixer.A_log.exp().min() >= 1 and mixer.A_log.exp().max() <= 16
    twin = build(small(arch, d_model=64, n_layer=4)).state_dict()
    assert all(torch.equal(value, twin[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("arch", ARCHS)
def test_it_starts_at_ln_of_the_vocabulary_and_learns(arch: str) -> None:
    model = build(small(arch))
    g = torch.Generator().manual_seed(2)
    tokens = torch.randint(0, 50, (4, 17), generator=g)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = model.loss(tokens[:, :-1], tokens[:, 1:], None).mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] == pytest.approx(math.log(56), abs=0.2)
    assert losses[-1] < losses[0] / 2


def test_shapes_that_can_not_be_are_named() -> None:
    assert ModelConfig(arch="mamba2", d_model=100, headdim=64).problems() == [
        "headdim = 64: must divide expand * d_model = 200"
    ]
    assert ModelConfig(arch="mamba2", d_model=64, headdim=64, ngroups=3).problems() == [
        "ngroups = 3: must divide the 2 heads"
    ]
    with pytest.raises(ValueError, match=r"vocab_size = 100: the tokenizer has 257"):
        resolved(ModelConfig(vocab_size=100), 257)
