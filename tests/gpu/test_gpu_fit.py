"""`trainer.fit` on a GPU: what is measured is what training takes, what does not fit is left alone, and the bits stay."""

import shutil

import msgspec
import pytest
import torch
from small_run import make_run, small_config, write_plan

from adam.contract import schema
from adam.contract.config import Checkpoint, Config, Trainer
from adam.contract.durable import whole_lines
from adam.contract.model import ModelConfig, resolved
from adam.contract.records import Fit, Numerics, Resume, decode_step
from adam.contract.snapshots import complete_snapshots
from adam.trainer.attempt import run_attempt
from adam.trainer.fit import SLACK, Probe
from adam.trainer.fit_choice import MARGIN, fits
from adam.trainer.memory import BLOCKS, KEPT, STATES, set_way
from adam.trainer.model.lm import MambaLM
from adam.trainer.ops.fp8 import OLDEST
from adam.trainer.ops.native import NativeOps
from adam.trainer.optim import apply_update, make_optimizer
from adam.trainer.runtime import Runtime

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
SHAPE = resolved(ModelConfig(d_model=512, n_layer=8), 4096)
CONFIG = Config(
    trainer=Trainer(batch_size=8, micro_batch=8, seq_len=1024, decay_steps=1), checkpoint=Checkpoint(ram="off")
)
RUNTIME = Runtime("cuda", "bf16", "native", 1, 8)
SEGMENTS = 2 * (20 << 20)  # what torch's allocator may ask for more than is wanted, where the model is as small as here


def made() -> MambaLM:
    torch.manual_seed(0)
    with torch.device("cuda"):
        return MambaLM(SHAPE, NativeOps())


@pytest.mark.parametrize("again", [KEPT, STATES, BLOCKS])
@pytest.mark.parametrize("size", [8, 2])
def test_a_step_takes_what_was_measured(size: int, again: str) -> None:
    model = made()
    measured = Probe(model, CONFIG, RUNTIME, lambda: None).measure(size, again)
    assert measured.seconds > 0
    set_way(model, again)
    optimizer = make_optimizer(model, CONFIG.trainer)
    tokens = torch.randint(4096, (8, 1024), device="cuda")
    for _ in range(2):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        for part in tokens.split(size):
            with RUNTIME.autocast():
                loss = model.loss(part, part, torch.zeros_like(part, dtype=torch.bool)).mean()
            loss.backward()
        apply_update(optimizer)
        optimizer.zero_grad(set_to_none=True)
    taken = torch.cuda.max_memory_reserved()
    assert 0.85 * measured.peak < taken < 1.05 * measured.peak + SEGMENTS, (taken, measured.peak)


def test_ways_take_less_and_less() -> None:
    probe = Probe(made(), CONFIG, RUNTIME, lambda: None)
    peaks = [probe.measure(8, again).peak for again in (KEPT, STATES, BLOCKS)]
    assert peaks == sorted(peaks, reverse=True) and len(set(peaks)) == 3


def test_states_of_some_layers_lie_between() -> None:
    probe = Probe(made(), CONFIG, RUNTIME, lambda: None)
    kept, some, again = (probe.measure(8, *way) for way in ((KEPT, 0), (STATES, 4), (STATES, 0)))
    assert kept.peak > some.peak > again.peak and some.layers == 4
    probe.room, probe.copy = int((some.peak + again.peak) / 2 / (1 - MARGIN - SLACK)), 0
    for one in probe.partly(again):
        assert 4 <= one.layers < 8 and fits(one, int(probe.room * 1.01) + SEGMENTS, 0)


def test_what_does_not_fit_is_seen_and_leaves_nothing_behind() -> None:
    probe = Probe(made(), CONFIG, RUNTIME, lambda: None)
    probe.measure(1, KEPT)  # libraries have their work space now
    before = torch.cuda.memory_allocated()
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (300 << 20)) / total)
        assert probe.measure(8, KEPT).seconds == 0
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.cuda.memory_allocated() == before and probe.measure(1, KEPT).seconds > 0


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_a_run_that_is_stopped_goes_on_with_the_same_bits(tmp_path, precision: str) -> None:
    if precision == "fp8" and torch.cuda.get_device_capability() < OLDEST:
        pytest.skip("a GPU that has no fp8")
    config = small_config(steps=12, fit="auto", device="cuda", precision=precision)
    whole, parts = make_run(tmp_path / "whole", config), make_run(tmp_path / "parts", config)
    write_plan(whole)
    assert run_attempt(whole.root, 1, lambda: False)
    shutil.copy(whole.fit, parts.fit)  # times differ, and with them the choice
    asked = iter(range(4))
    write_plan(parts)
    assert not run_attempt(parts.root, 1, lambda: next(asked, None) is None)
    snapshot = complete_snapshots(parts)[0]
    write_plan(parts, 2, Resume(snapshot.name, snapshot.head.step, str(snapshot.path)))
    assert run_attempt(parts.root, 2, lambda: False)
    rows = [[decode_step(line, paths.steps) for _, line in whole_lines(paths.steps)] for paths in (whole, parts)]
    found = [[(row.step, row.loss, row.grad_norm, row.val_loss) for row in each] for each in rows]
    assert found[0] == found[1] and len(found[0]) == 12


def test_a_run_chooses_and_goes_on(tmp_path) -> None:
    config = small_config(fit="auto", device="cuda", precision="auto")
    paths = make_run(tmp_path / "run", config)
    write_plan(paths)
    assert run_attempt(paths.root, 1, lambda: False)
    fit = schema.load(paths.fit, Fit)
    assert fit is not None and fit.chosen in fit.measured and fit.copy > 0
    numerics = schema.load(paths.numerics, Numerics)
    assert numerics is not None and numerics.parts["micro_batch"] == str(fit.chosen.micro_batch)
    assert msgspec.structs.replace(fit.chosen, seconds=0.0).peak < fit.room
