"""Muon for matrices: what it makes of a gradient, who updates what, and that a run with it goes on bit for bit."""

import pytest
import torch
from small_run import make_run, small_config, write_plan

from adam.contract.config import Trainer
from adam.contract.durable import whole_lines
from adam.contract.errors import ConfigError
from adam.contract.lock import settle_config
from adam.contract.model import ModelConfig, resolved
from adam.contract.records import Resume, decode_step
from adam.contract.slots import read_head
from adam.contract.snapshots import complete_snapshots
from adam.trainer.attempt import run_attempt
from adam.trainer.model.lm import MambaLM
from adam.trainer.muon import is_matrix
from adam.trainer.ops.reference import ReferenceOps
from adam.trainer.optim import apply_update, make_optimizer, moments, set_rate

SHAPE = resolved(ModelConfig(d_model=32, n_layer=2, d_state=4), 64)
MATRICES = {"in_proj.weight", "x_proj.weight", "dt_proj.weight", "out_proj.weight"}


def trained(optimizer: str, rates: list[float]) -> tuple[MambaLM, dict[str, torch.Tensor], torch.optim.AdamW]:
    """A model after updates with made-up gradients, its weights before, and its optimizer."""
    torch.manual_seed(0)
    model = MambaLM(SHAPE, ReferenceOps())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    made = make_optimizer(model, Trainer(optimizer=optimizer, decay_steps=1, weight_decay=0.0))
    for rate in rates:
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape)
        set_rate(made, rate)
        apply_update(made)
        made.zero_grad(set_to_none=True)
    return model, before, made


def test_matrices_are_moved_alike_in_all_directions() -> None:
    model, before, _ = trained("muon", [0.1])
    for name, parameter in model.named_parameters():
        if is_matrix(name, parameter):
            moved = torch.linalg.svdvals((parameter.detach() - before[name]) / 0.1)
            # 0.2 sqrt(the longer side), each singular value within what five steps leave.
            assert (moved / (0.2 * max(parameter.shape) ** 0.5)).sub(0.95).abs().max() < 0.35, name


def test_the_rest_is_adamws() -> None:
    (muon, _, made), (adamw, _, _) = trained("muon", [0.1, 0.0, 0.05]), trained("adamw", [0.1, 0.0, 0.05])
    theirs = dict(adamw.named_parameters())
    same = {name for name, parameter in muon.named_parameters() if torch.equal(parameter, theirs[name])}
    assert {name.split("mixer.")[1] for name, p in muon.named_parameters() if name not in same} == MATRICES
    assert all(parameter.grad is None for parameter in muon.parameters()) and len(made.param_groups) == 3


def test_a_matrix_has_one_moment() -> None:
    model, _, made = trained("muon", [0.1])
    names = [name for name, _ in moments(model, made)]
    assert sum(name.startswith("momentum.") for name in names) == 2 * len(MATRICES)
    assert len(names) == sum(1 if is_matrix(name, p) else 2 for name, p in model.named_parameters())
    fresh = make_optimizer(model, Trainer(optimizer="muon", decay_steps=1))
    assert [name for name, tensor in moments(model, fresh) if not tensor.any()] == names


def test_a_run_learns_and_goes_on_bit_for_bit(tmp_path) -> None:
    config = small_config(optimizer="muon", steps=12)
    whole, parts = make_run(tmp_path / "whole", config), make_run(tmp_path / "parts", config)
    write_plan(whole)
    assert run_attempt(whole.root, 1, lambda: False)
    asked = iter(range(9))
    write_plan(parts)
    assert not run_attempt(parts.root, 1, lambda: next(asked, None) is None)
    snapshot = complete_snapshots(parts)[0]
    found = read_head(snapshot.files[0])
    assert found is not None and any(name.startswith("momentum.") for name in found[1])
    write_plan(parts, 2, Resume(snapshot.name, snapshot.head.step, str(snapshot.path)))
    assert run_attempt(parts.root, 2, lambda: False)
    losses = [[decode_step(line, paths.steps).loss for _, line in whole_lines(paths.steps)] for paths in (whole, parts)]
    assert losses[0] == losses[1] and losses[0][-1] < losses[0][0] - 0.05


def test_it_can_not_change_in_a_run_that_has_begun() -> None:
    config = small_config()
    with pytest.raises(ConfigError, match=r"trainer\.optimizer can't change"):
        settle_config(small_config(optimizer="muon"), config, has_data=True, has_training=True)
