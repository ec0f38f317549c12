"""A training of several ranks is saved and loaded by any number of ranks, bit for bit: real processes, FSDP2 over gloo."""

import hashlib
from pathlib import Path

import pytest
from rank_group import go_on_from, lease, random_states, trained
from safetensors.numpy import load_file

from adam.contract.checkpoints import rank_file
from adam.contract.snapshots import complete_snapshots
from adam.contract.whole import whole_tensors
from adam.watchdog.keeper_words import Commit, Settle

pytestmark = pytest.mark.timeout(300)  # four processes on two cores import torch for half a minute


def read_by_others(checkpoint: Path) -> dict[str, str]:
    """Digests of the trained tensors, read without the trainer; each file is one that the library safetensors reads."""
    head, tensors = whole_tensors(checkpoint)
    whole = {name: tensor for name, tensor in tensors.items() if name.startswith(("model.", "exp_avg"))}
    for rank in range(head.world):
        assert set(whole) <= set(load_file(checkpoint / rank_file(rank)))
    return {name: hashlib.sha256(b"".join(tensor.blocks(1 << 20))).hexdigest() for name, tensor in whole.items()}


@pytest.mark.parametrize(("arch", "keep"), [("mamba1", False), ("mamba2", True)])
def test_a_training_goes_on_exactly_on_one_two_one_and_four_ranks(groups, paths, keeper, arch: str, keep: bool) -> None:
    """keep: gathered weights stay from the forward to the backward."""
    checkpoint, saved, ahead = None, None, None
    for attempt, world in enumerate((1, 2, 1, 4), 1):
        group = groups.of(world)
        if checkpoint is None:
            group.do("make", arch=arch, seed=1, keep=keep)
        else:
            assert go_on_from(group, arch, checkpoint, committed=True, keep=keep) == saved
        lease(paths, attempt)
        assert group.same("stage", run=str(paths.root), attempt=attempt, use_ram=True)["in_ram"]
        losses = group.same("train", updates=2)
        assert ahead is None or losses == pytest.approx(ahead, rel=1e-5)
        saved, random = trained(group), random_states(group)
        assert saved["steps"] == [2.0 * attempt] and len(set(random)) == world
        assert group.same("take")
        ahead = group.same("train", updates=2)
        end = trained(group)
        group.do("unstage")

        (snapshot,) = complete_snapshots(paths)
        assert snapshot.head.world == len(snapshot.files) == world
        for other in (1, 2):
            if other != world:
                assert go_on_from(groups.of(other), arch, snapshot.path, committed=False, keep=keep) == saved
        answer = keeper.answer(Commit())
        assert answer.committed is not None, answer
        checkpoint = paths.checkpoints / answer.committed.name
        assert read_by_others(checkpoint) == saved["whole"]
        for directory, committed in ((snapshot.path, False), (checkpoint, True)):
            assert go_on_from(group, arch, directory, committed=committed, keep=keep) == saved
            assert random_states(group) == random
            assert group.same("train", updates=2) == ahead
            assert trained(group) == end
        assert not keeper.answer(Settle(attempt, attempt)).trouble
        assert not paths.ram.exists()


@pytest.mark.parametrize(("arch", "name"), [("mamba1", "x_proj.weight"), ("mamba2", "dt_bias")])
def test_parts_may_be_uneven_and_empty(groups, arch: str, name: str) -> None:
    """That they are the right rows is asserted by the worker, against the whole tensor."""
    groups.of(4).do("make", arch=arch, seed=1)
    rows = [state["rows"] for state in groups.of(4).do("state")]
    assert [part["model.backbone.embedding.weight"] for part in rows] == [[0, 16], [16, 16], [32, 16], [48, 13]]
    counts = [part[f"exp_avg.backbone.layers.1.mixer.{name}"][1] for part in rows]
    assert counts[3] == 0 and sum(counts) == {"x_proj.weight": 9, "dt_bias": 3}[name]
