"""Whether states of scans are kept: what is measured of a block is what the model takes, and the choice follows from it. No GPU needed."""

import cuda_on_cpu
import msgspec
import pytest
import torch

from adam.contract.config import Trainer
from adam.contract.model import ModelConfig, resolved
from adam.trainer.memory import (
    BLOCKS,
    INPUTS,
    KEPT,
    SHARE,
    STATE_BYTES,
    STATES,
    kept_bytes,
    layers_again,
    needed_bytes,
    set_way,
    settle_states,
)
from adam.trainer.model.lm import MambaLM
from adam.trainer.ops.native import NativeOps
from adam.trainer.ops.reference import ReferenceOps
from adam.trainer.runtime import Runtime

LENGTH, LAYERS, MICRO_BATCH = 24, 3, 4
RUNTIME = Runtime("cpu", "bf16", "native", 1, MICRO_BATCH)
SHAPE = resolved(ModelConfig(d_model=32, n_layer=LAYERS), 64)


@pytest.fixture(autouse=True, scope="module")
def compiled(tmp_path_factory):
    if cuda_on_cpu.GXX is None:
        pytest.skip("no g++ to compile the kernels with")
    with cuda_on_cpu.kernels_on_cpu(tmp_path_factory.mktemp("kernels")):
        yield


def model(*, recompute: bool = False) -> MambaLM:
    torch.manual_seed(0)
    return MambaLM(SHAPE, NativeOps(recompute=recompute))


def parameters(model: MambaLM) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_what_recomputing_saves_is_the_states_and_y() -> None:
    kept, recomputed = (kept_bytes(model(recompute=again), 2, LENGTH, RUNTIME) for again in (False, True))
    states, y = 2 * LENGTH // 8 * SHAPE.d_inner * 16 * 4, 2 * LENGTH * SHAPE.d_inner * 2
    assert kept - recomputed == states + y


def test_what_a_block_keeps_tells_what_the_model_keeps() -> None:
    whole = model()
    weights = {parameter.untyped_storage().data_ptr() for parameter in whole.parameters()}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), RUNTIME.autocast():
        tokens = torch.zeros(MICRO_BATCH, LENGTH, dtype=torch.int64)
        whole.backbone(tokens, torch.zeros(MICRO_BATCH, LENGTH, dtype=torch.bool))
    true = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights)
    assert needed_bytes(whole, LENGTH, RUNTIME) - STATE_BYTES * parameters(whole) == pytest.approx(true, rel=0.05)


def test_the_choice() -> None:
    made = model()
    need = needed_bytes(made, LENGTH, RUNTIME)
    set_way(made, INPUTS)
    less = needed_bytes(made, LENGTH, RUNTIME)
    for wanted, room, layers, forgets in (
        ("auto", int(need / SHARE) + 9, 0, False),
        ("auto", int(less / SHARE) + 9, 0, True),
        ("auto", int(less / SHARE) - 9, 1, True),  # states of the others fit
        ("auto", 0, LAYERS, True),
        ("on", 10**15, LAYERS, True),
        ("off", 0, 0, False),
    ):
        made = model()
        found = settle_states(made, Trainer(recompute=wanted, seq_len=LENGTH), RUNTIME, room)
        mixers = [block.mixer for block in made.backbone.layers]
        assert [mixer.ops.recompute for mixer in mixers] == [number < layers for number in range(LAYERS)]
        assert {mixer.forget for mixer in mixers} == {forgets} and found is (layers > 0)


def test_inputs_of_scans_are_not_kept() -> None:
    made = model()
    kept = needed_bytes(made, LENGTH, RUNTIME)
    set_way(made, INPUTS)
    of_a_layer = 2 * MICRO_BATCH * LENGTH * SHAPE.d_inner * 2  # the convolution's output and the step sizes, bf16
    assert kept - needed_bytes(made, LENGTH, RUNTIME) == LAYERS * of_a_layer


def test_states_of_some_layers() -> None:
    made = model()
    need = {}
    for layers in (1, 2, 3):
        set_way(made, STATES, layers)
        need[layers] = needed_bytes(made, LENGTH, RUNTIME)
        assert [block.mixer.ops.recompute for block in made.backbone.layers] == [number < layers for number in range(3)]
    set_way(made, INPUTS)
    all_kept = needed_bytes(made, LENGTH, RUNTIME)
    assert not any(block.mixer.ops.recompute for block in made.backbone.layers)
    a_layer = MICRO_BATCH * (LENGTH // 8 * SHAPE.d_inner * 16 * 4 + LENGTH * SHAPE.d_inner * 2)  # states and y
    assert [all_kept - need[layers] for layers in (1, 2, 3)] == [a_layer, 2 * a_layer, 3 * a_layer]
    for spare, layers in ((0, 3), (a_layer - 1, 3), (a_layer, 2), (2 * a_layer + 5, 1), (10 * a_layer, 0), (-5, 3)):
        assert layers_again(made, LENGTH, RUNTIME, spare) == layers


def test_whatever_is_computed_again_gives_the_same_gradients() -> None:
    tokens = torch.randint(64, (1, 9), generator=torch.Generator().manual_seed(0))
    found = []
    for way in ((KEPT,), (INPUTS,), (STATES, 2), (STATES,), (BLOCKS,)):
        made = model()
        set_way(made, *way)
        with RUNTIME.autocast():
            loss = made.loss(tokens[:, :-1], tokens[:, 1:], None).mean()
        loss.backward()
        found.append([parameter.grad for parameter in made.parameters()])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_what_keeps_no_states_is_left_alone() -> None:
    two = resolved(ModelConfig(arch="mamba2", d_model=32, n_layer=1, d_state=4, headdim=8), 64)
    for made in (MambaLM(SHAPE, ReferenceOps()), MambaLM(two, ReferenceOps())):
        assert not settle_states(made, Trainer(recompute="on", seq_len=LENGTH), RUNTIME, 0)


def test_measuring_leaves_nothing_behind() -> None:
    made = model()
    before = torch.get_rng_state(), {name: value.clone() for name, value in made.state_dict().items()}
    settle_states(made, Trainer(seq_len=LENGTH), msgspec.structs.replace(RUNTIME, micro_batch=2), 0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(torch.equal(value, before[1][name]) for name, value in made.state_dict().items())
    assert all(parameter.grad is None for parameter in made.parameters())
