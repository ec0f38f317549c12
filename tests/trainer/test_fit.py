"""`trainer.fit`: the choice (pure), what is measured of a real model on a CPU, and that a restart of a run keeps it bit for bit."""

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_run import make_run, small_config, write_plan

from adam.contract import schema
from adam.contract.durable import whole_lines
from adam.contract.errors import ConfigError
from adam.contract.model import ModelConfig, resolved
from adam.contract.paths import RunPaths
from adam.contract.records import Fit, Fitted, Numerics, Resume, decode_step
from adam.contract.snapshots import complete_snapshots
from adam.trainer import fit as fit_module
from adam.trainer import loop
from adam.trainer.attempt import run_attempt
from adam.trainer.fit import Probe, key_of, settle_fit
from adam.trainer.fit_choice import COPY_WORTH, MARGIN, SMALL_BUFFERS, fits, pick, search, sizes
from adam.trainer.memory import BLOCKS, KEPT, STATES
from adam.trainer.model.lm import MambaLM
from adam.trainer.ops.reference import ReferenceOps
from adam.trainer.runtime import Runtime

GB = 10**9
RUNTIME = Runtime("cpu", "fp32", "torch", 1, 2)
SHAPE = resolved(ModelConfig(d_model=16, n_layer=2, d_state=4), 64)


def taken(size: int, again: str) -> Fitted:
    """A model made up: 45 GB and what each sample keeps; small sizes leave the chip idle, computing again takes time."""
    memory = {KEPT: 11 * GB, STATES: 5 * GB, BLOCKS: GB}[again]
    slower = {KEPT: 1.0, STATES: 1.1, BLOCKS: 1.3}[again]
    return Fitted(size, again, slower * (1 + 0.2 / size) / 10, 45 * GB + size * memory)


def searched(
    room: int, copy: int = 35 * GB, batch: int = 32, ways=(KEPT, STATES, BLOCKS)
) -> tuple[Fitted | None, list]:
    found = search(
        sizes(batch, batch),
        ways,
        lambda size, again: (
            one if (one := taken(size, again)).peak <= room else msgspec.structs.replace(one, seconds=0.0)
        ),
        lambda one: pick([one], room, copy, batch) is not None,
        lambda: True,
    )
    return pick(found, room, copy, batch), found


@pytest.mark.parametrize(
    ("room", "chosen"),
    [
        (500 * GB, (16, KEPT)),  # as fast as 32, and takes less
        (180 * GB, (8, KEPT)),  # beside the copy; 8 without states kept would be slower, 16 would not fit
        (150 * GB, (4, KEPT)),
        (80 * GB, (2, KEPT)),  # through small buffers
        (70 * GB, (4, STATES)),
        (57 * GB, (1, STATES)),
        (50 * GB, (1, BLOCKS)),
        (40 * GB, None),
    ],
)
def test_the_fastest_that_fits(room: int, chosen: tuple[int, str] | None) -> None:
    best, _ = searched(room)
    assert (best and (best.micro_batch, best.again)) == chosen


def test_blocks_are_only_tried_where_nothing_else_fits() -> None:
    assert BLOCKS not in {one.again for one in searched(60 * GB)[1]}
    assert {one.again for one in searched(50 * GB)[1]} == {KEPT, STATES, BLOCKS}


def test_a_smaller_size_that_is_slower_ends_the_search() -> None:
    assert [one.micro_batch for one in searched(500 * GB)[1]] == [32, 16, 32, 16]


def test_no_time_left_means_no_more_than_one_that_fits() -> None:
    asked = []
    search(
        [8, 4, 2],
        (KEPT, BLOCKS),
        lambda *one: asked.append(one) or Fitted(*one, 1.0, GB),
        lambda _: True,
        lambda: False,
    )
    assert asked == [(8, KEPT)]


def test_a_copy_is_worth_a_little_time() -> None:
    room = 100 * GB
    slow, fast = Fitted(1, KEPT, 1.0 * (COPY_WORTH - 0.001), 40 * GB), Fitted(2, KEPT, 0.99, 90 * GB)
    assert pick([slow, fast], room, 35 * GB, 8) == slow
    assert pick([slow, msgspec.structs.replace(fast, seconds=0.9)], room, 35 * GB, 8).micro_batch == 2


@given(
    st.lists(st.builds(Fitted, st.integers(1, 8), st.sampled_from([KEPT, STATES]), st.floats(0, 2), st.integers(0, 99)), max_size=6),
    st.integers(0, 120),
    st.integers(0, 50),
    st.integers(1, 8),
)  # fmt: skip
def test_what_is_chosen_fits_always(found, room, copy, most) -> None:
    chosen = pick(found, room, copy, most)
    if chosen:
        assert chosen.seconds > 0 and chosen.micro_batch <= most
        assert chosen.peak + min(copy, SMALL_BUFFERS) + MARGIN * room <= room
        failed = pick(found, room, copy, most, [chosen])
        assert failed is None or failed.peak < chosen.peak


def test_sizes_divide_the_batch() -> None:
    assert sizes(12, 12) == [12, 6, 4, 3, 2, 1] and sizes(12, 5) == [4, 3, 2, 1]


def model() -> MambaLM:
    torch.manual_seed(0)
    return MambaLM(SHAPE, ReferenceOps())


def test_measuring_changes_nothing_but_takes_time() -> None:
    made, config = model(), small_config()
    before = {name: value.clone() for name, value in made.state_dict().items()}, torch.get_rng_state()
    beats: list[int] = []
    probe = Probe(made, config, RUNTIME, lambda: beats.append(1))
    found = [probe.measure(size, again) for size in (4, 1) for again in (KEPT, BLOCKS)]
    assert all(one.seconds > 0 and one.peak > 0 for one in found) and len(beats) == 4
    assert found[0].peak > found[1].peak  # blocks that are computed again keep less
    assert all(torch.equal(value, before[0][name]) for name, value in made.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before[1])
    assert all(parameter.grad is None for parameter in made.parameters())
    probe.room = found[1].peak - 1
    assert probe.measure(4, KEPT).seconds == 0  # not tried


def test_blocks_computed_again_have_the_same_gradients() -> None:
    tokens = torch.randint(64, (2, 17), generator=torch.Generator().manual_seed(0))
    gradients = []
    for again in (False, True):
        made = model()
        made.backbone.recompute = again
        made.loss(tokens[:, :-1], tokens[:, 1:], None).mean().backward()
        gradients.append([parameter.grad for parameter in made.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_key_changes_with_what_it_holds_for() -> None:
    config = small_config(fit="auto")
    keys = {
        key_of(model(), config, RUNTIME),
        key_of(model(), small_config(fit="auto", seq_len=32), RUNTIME),
        key_of(model(), config, msgspec.structs.replace(RUNTIME, backend="native")),
        key_of(MambaLM(msgspec.structs.replace(SHAPE, n_layer=3), ReferenceOps()), config, RUNTIME),
    }
    assert len(keys) == 4
    same = [msgspec.structs.replace(RUNTIME, micro_batch=4), RUNTIME]
    assert len({key_of(model(), small_config(fit="auto", micro_batch=4, lr=1e-3), one) for one in same} & keys) == 1


def settled(path, **more) -> Fit:
    return settle_fit(
        path, model(), small_config(fit="auto"), RUNTIME, **{"most": 0, "attempt": 1, "beat": int, **more}
    )


def test_a_model_that_does_not_fit_is_one_clear_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(fit_module, "room_of", lambda device: 10_000)
    with pytest.raises(
        ConfigError, match=r"training this model takes .* there are 10\.0 KB|kB.*choose a smaller model"
    ):
        settled(tmp_path / "fit.json")


def test_what_failed_in_training_is_not_chosen_again(tmp_path) -> None:
    path = tmp_path / "fit.json"
    first = settled(path)
    schema.save(path, fit_module.without(first))
    second = settled(path, attempt=2)
    assert second.chosen.peak < first.chosen.peak and second.out_of_memory == (first.chosen,)
    path.write_bytes(path.read_bytes()[:20])  # torn by a power cut
    assert settled(path, attempt=3).attempt == 3


def rows(paths: RunPaths) -> list[tuple[int, float | None]]:
    return [(row.step, row.loss) for row in (decode_step(line, paths.steps) for _, line in whole_lines(paths.steps))]


def test_a_restart_computes_as_before_without_measuring(tmp_path, monkeypatch) -> None:
    paths = make_run(tmp_path / "run", small_config(fit="auto", steps=6))
    write_plan(paths)
    asked = iter(range(4))
    assert not run_attempt(paths.root, 1, lambda: next(asked, None) is None)
    fit = schema.load(paths.fit, Fit)
    assert fit and schema.load(paths.numerics, Numerics).parts["micro_batch"] == str(fit.chosen.micro_batch)
    snapshot = complete_snapshots(paths)[0]
    monkeypatch.setattr(fit_module, "search", lambda *_: pytest.fail("measured again"))
    write_plan(paths, 2, Resume(snapshot.name, snapshot.head.step, str(snapshot.path)))
    assert run_attempt(paths.root, 2, lambda: False)
    again = make_run(tmp_path / "again", small_config(steps=6, micro_batch=fit.chosen.micro_batch))
    write_plan(again)
    assert run_attempt(again.root, 1, lambda: False)
    assert rows(paths) == rows(again)


def test_out_of_memory_in_training_steps_down(tmp_path, monkeypatch) -> None:
    paths = make_run(tmp_path / "run", small_config(fit="auto"))
    write_plan(paths)

    def fails(*_) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(loop.Loop, "run", fails)
    with pytest.raises(MemoryError):
        run_attempt(paths.root, 1, lambda: False)
    fit = schema.load(paths.fit, Fit)
    assert fit is not None and fit.out_of_memory == (fit.chosen,)
    assert fits(fit.chosen, fit.room, fit.copy)
