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
from adam.contract.shared import Control
from adam.contract.slots import PAGE_BYTES
from adam.contract.snapshots import complete_snapshots
from adam.contract.sums import page_sum
from adam.trainer import staging
from adam.trainer.copying import in_groups
from adam.trainer.model.lm import MambaLM
from adam.trainer.ops.reference import ReferenceOps
from adam.trainer.optim import make_optimizer
from adam.trainer.snapshot import Identity, Position, Snapshots
from adam.trainer.sums import all_sums, device_sum, read_sums


@pytest.fixture
def snapshots(tmp_path: Path):
    paths = new_run(tmp_path)
    found = another(paths)
    yield found, paths
    found.close()


def new_run(root: Path) -> RunPaths:
    paths = RunPaths(root)
    for directory in (paths.run, paths.checkpoints):
        directory.mkdir()
    return paths


def another(paths: RunPaths, attempt: int = 1) -> Snapshots:
    model = MambaLM(resolved(ModelConfig(d_model=128, n_layer=2, d_state=8), 512), ReferenceOps())
    identity = Identity(
        run=paths.identity, attempt=attempt, token=attempt, parent="", fingerprint="", config_digest="", data_digest=""
    )
    return Snapshots(paths, model, make_optimizer(model, small_config().trainer), identity, use_ram=True)


def test_a_copy_under_way_is_waited_for_and_nothing_else_is_begun(snapshots) -> None:
    taker, paths = snapshots
    assert taker.take(Position(step=1), why="ram")
    answers = iter([None, None, None])
    real = taker._copier.done
    taker._copier.done = lambda: next(answers, real())  # a drain that takes a while
    assert taker.take(Position(step=2), why="ram")
    assert not taker.take(Position(step=3), why="interval")
    taker.finish()
    assert taker.take(Position(step=3), why="interval")
    taker.finish()
    assert (complete_snapshots(paths)[0].head.step, taker.durable) == (3, 1)


def test_a_wait_for_the_copy_before_is_part_of_what_a_snapshot_costs(snapshots) -> None:
    """A milestone waits for the drain of a snapshot in memory, and training with it."""
    taker, _ = snapshots
    assert taker.take(Position(step=1), why="ram")
    real, until = taker._copier.done, time.perf_counter() + 0.4
    taker._copier.done = lambda: real() if time.perf_counter() > until else None

    def take(step: int, why: str) -> float:
        """How long the call took: what it cost without a wait before it is a part of that, on however busy a machine."""
        began = time.perf_counter()
        assert taker.take(Position(step=step), why=why)
        return time.perf_counter() - began

    took = take(2, "ram")
    assert taker.stall_s <= took
    least = until - time.perf_counter()
    taker.finish()
    take(3, "milestone")
    assert taker.stall_s > 0.9 * least
    took = take(4, "ram")
    assert taker.stall_s <= took


def test_fifty_saves_use_no_more_memory_than_ten(snapshots) -> None:
    taker, paths = snapshots
    process, used = psutil.Process(), []
    for number in range(60):
        assert taker.take(Position(step=number), why="ram" if number % 7 else "interval")
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
    assert taker.take(Position(step=1), why="interval", control=Control(saves=3))
    taker.finish()
    shutil.rmtree(paths.ram)
    assert not taker.take(Position(step=2), why="ram")
    for step in range(3, 1000):
        if taker.take(Position(step=step), why="ram", control=Control(saves=3)):
            break
        time.sleep(0.01)
    taker.finish()
    newest = complete_snapshots(paths)[0].head
    assert (newest.step, newest.durable, newest.saves, taker.durable) == (step, True, 3, 2)
    assert taker.take(Position(step=1001), why="ram", control=Control(saves=3))
    taker.finish()
    assert not complete_snapshots(paths)[0].head.durable


def take(taker: Snapshots, step: int, why: str = "ram", **control: int) -> None:
    assert taker.take(Position(step=step), why=why, control=Control(**control))
    taker.finish()


def there(paths: RunPaths) -> list[tuple[int, str]]:
    return [(snapshot.head.step, snapshot.head.why) for snapshot in complete_snapshots(paths)]


def test_what_is_to_be_a_checkpoint_stays_until_it_is_one(snapshots) -> None:
    taker, paths = snapshots
    take(taker, 10, "request", saves=1)
    for step in range(11, 16):
        take(taker, step, saves=1)
    assert there(paths) == [(15, "ram"), (14, "ram"), (10, "request")]
    for step in range(16, 18):
        take(taker, step, saves=1, committed=10)
    assert there(paths) == [(17, "ram"), (16, "ram"), (15, "ram")]


@pytest.mark.parametrize("why", ["request", "milestone"])
def test_with_two_slots_a_later_snapshot_takes_over_what_one_was_for(tmp_path: Path, monkeypatch, why: str) -> None:
    """The keeper may be slow, and the newest snapshot is what a killed trainer goes on from."""
    monkeypatch.setattr(staging, "SLOTS", 2)
    paths = new_run(tmp_path)
    taker = another(paths)
    take(taker, 10, why, saves=7)
    take(taker, 11, saves=7)
    take(taker, 12, saves=7)
    assert there(paths) == [(12, why), (11, "ram")] and taker.durable == 2
    assert complete_snapshots(paths)[0].head.saves == 7
    take(taker, 13, saves=7, committed=12)
    take(taker, 14, saves=7, committed=12)
    assert there(paths) == [(14, "ram"), (13, "ram")]
    taker.close()


def test_what_an_earlier_attempt_left_is_no_debt(snapshots) -> None:
    taker, paths = snapshots
    take(taker, 10, "interval")
    take(taker, 11, "interval")
    following = another(paths, attempt=2)
    for step in range(12, 17):
        take(following, step)
    assert following.durable == 0
    following.close()


def test_what_a_snapshot_costs_is_known_to_the_pace(snapshots) -> None:
    """A pace that sees no cost takes one at each step."""
    taker, _ = snapshots
    assert taker.stall_s == 0
    take(taker, 1)
    assert taker.stall_s > 0
