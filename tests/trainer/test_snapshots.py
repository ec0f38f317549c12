"""Snapshots taken again and again: what they use stays what it was."""

import shutil
import time
from pathlib import Path

import psutil
import pytest
import torch
from small_run import small_config

from adam.contract.model import ModelConfig, resolved
from adam.contract.paths import RunPaths
from adam.contract.slots import PAGE_BYTES
from adam.contract.snapshots import complete_snapshots
from adam.contract.sums import page_sum
from adam.trainer.copying import in_groups
from adam.trainer.model.lm import MambaLM
from adam.trainer.ops.reference import ReferenceOps
from adam.trainer.optim import make_optimizer
from adam.trainer.snapshot import Identity, Position, Snapshots
from adam.trainer.sums import all_sums, device_sum, read_sums


@pytest.fixture
def snapshots(tmp_path: Path):
    paths = RunPaths(tmp_path)
    for directory in (paths.run, paths.checkpoints):
        directory.mkdir()
    model = MambaLM(resolved(ModelConfig(d_model=128, n_layer=2, d_state=8), 512), ReferenceOps())
    identity = Identity(
        run=paths.identity, attempt=1, token=1, parent="", fingerprint="", config_digest="", data_digest=""
    )
    found = Snapshots(paths, model, make_optimizer(model, small_config().trainer), identity, use_ram=True)
    yield found, paths
    found.close()


def test_a_copy_under_way_is_waited_for_and_nothing_else_is_begun(snapshots) -> None:
    taker, paths = snapshots
    assert taker.take(Position(step=1), why="ram", saves=0, durable=False)
    answers = iter([None, None, None])
    real = taker._copier.done
    taker._copier.done = lambda: next(answers, real())  # a drain that takes a while
    assert taker.take(Position(step=2), why="ram", saves=0, durable=False)
    assert not taker.take(Position(step=3), why="interval", saves=0, durable=True)
    taker.finish()
    assert taker.take(Position(step=3), why="interval", saves=0, durable=True)
    taker.finish()
    assert (complete_snapshots(paths)[0].head.step, taker.durable) == (3, 1)


def test_fifty_saves_use_no_more_memory_than_ten(snapshots) -> None:
    taker, paths = snapshots
    process, used = psutil.Process(), []
    for number in range(60):
        assert taker.take(Position(step=number), why="ram", saves=0, durable=number % 7 == 0)
        if number in (9, 59):
            memory = process.memory_full_info().uss
            files = sum(file.stat().st_blocks for file in paths.ram.rglob("*") if file.is_file())
            used.append((memory, files, process.num_fds()))
    assert used[1][1:] == used[0][1:]
    assert used[1][0] - used[0][0] < 2_000_000  # one snapshot has 5 MB
    assert complete_snapshots(paths)[0].head.step == 59


@pytest.mark.parametrize("size", [1, 7, 4096, 4097, 3 * 4096 + 5])
def test_a_device_sums_as_the_host_does(size: int) -> None:
    torch.manual_seed(size)
    data = torch.randint(0, 256, (size,), dtype=torch.uint8)
    expected = page_sum([bytes(data.tolist())])
    assert read_sums(device_sum(data).unsqueeze(0)) == all_sums([data]) == [expected]


def test_groups_fit_and_leave_nothing_out() -> None:
    spans = {"a": (0, 10), "b": (PAGE_BYTES, 9000), "c": (12288, 12300), "d": (16384, 30000)}
    assert in_groups(spans, 1 << 20) == [["a", "b", "c", "d"]]
    assert in_groups(spans, 13_616) == [["a", "b", "c"], ["d"]]
    assert [name for group in in_groups(spans, 4096) for name in group] == list(spans)


def test_slots_that_somebody_deletes_are_made_again_and_what_was_in_them_is_owed(snapshots) -> None:
    taker, paths = snapshots
    assert taker.take(Position(step=1), why="interval", saves=3, durable=True)
    taker.finish()
    shutil.rmtree(paths.ram)
    assert not taker.take(Position(step=2), why="ram", saves=0, durable=False)
    for step in range(3, 1000):
        if taker.take(Position(step=step), why="ram", saves=3, durable=False):
            break
        time.sleep(0.01)
    taker.finish()
    newest = complete_snapshots(paths)[0].head
    assert (newest.step, newest.durable, newest.saves, taker.durable) == (step, True, 3, 2)
    assert taker.take(Position(step=1001), why="ram", saves=3, durable=False)
    taker.finish()
    assert not complete_snapshots(paths)[0].head.durable
