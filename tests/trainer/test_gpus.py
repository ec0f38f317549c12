"""Several ranks train as one does: real processes on the CPU, started by torchrun's agent, FSDP2 over gloo."""

import os
import subprocess
from pathlib import Path

import pytest
from born import bits, config, rows, train
from small_run import make_run, write_plan

from adam.contract.config import Trainer
from adam.contract.errors import ConfigError, GpuError
from adam.contract.paths import RunPaths
from adam.trainer import place
from adam.trainer.place import count_ranks

pytestmark = pytest.mark.timeout(600)  # processes on two cores import torch for half a minute


def trained(place: Path, world: int, **changes) -> RunPaths:
    paths = make_run(place, config(world, **changes))
    assert train(paths, write_plan(paths)) == 0, paths.log("trainer").read_text()
    return paths


@pytest.mark.parametrize("arch", ["mamba1", "mamba2"])
def test_two_ranks_have_the_losses_of_one_and_the_same_bits_each_time(tmp_path, arch: str) -> None:
    one, two, again = (trained(tmp_path / f"{n}", world, arch=arch) for n, world in enumerate((1, 2, 2)))
    assert bits(two) == bits(again)
    single, both = rows(one), rows(two)
    assert [row.step for row in both] == list(range(1, 31))
    assert [(row.first_sample, row.end_sample, row.tokens) for row in both] == [
        (row.first_sample, row.end_sample, row.tokens) for row in single
    ]
    for name in ("loss", "grad_norm"):
        assert [getattr(row, name) for row in both] == pytest.approx([getattr(row, name) for row in single], rel=1e-5)
    checked = [row for row in single if row.val_loss is not None]
    assert [row.step for row in checked] == [15, 30]
    for row in checked:
        found = both[row.step - 1]
        assert found.val_loss == pytest.approx(row.val_loss, rel=1e-5)
        assert found.val_bits_per_byte == pytest.approx(row.val_bits_per_byte, rel=1e-5)
        assert found.entropy == pytest.approx(row.entropy, rel=1e-5)


def test_how_many_ranks_there_are() -> None:
    def count(gpus: int | str, names: list[str], device: str = "auto", was_on: str = "", at_once: int = 2) -> int:
        return count_ranks(Trainer(gpus=gpus, device=device, batch_size=32), was_on, at_once, lambda: names)

    assert count(1, []) == 1
    assert count(2, ["H200"] * 4) == 2 and count("all", ["H200"] * 4) == 4
    assert count("all", ["H200"] * 7) == 4  # 32 samples can't be dealt to 5, 6 or 7
    assert count("all", ["H200"] * 4, at_once=16) == 2
    assert count("all", []) == 1 and count("all", ["H200"] * 4, device="cpu") == 1
    assert count(2, [], device="cpu") == 2
    with pytest.raises(ConfigError, match=r"^trainer.gpus = 4, but torch sees 2; run `adamctl doctor`, or lower it$"):
        count(4, ["H200"] * 2)
    with pytest.raises(GpuError, match=r"^trainer.gpus = 4, but torch sees 3, and this run was on NVIDIA H200; run"):
        count(4, ["H200"] * 3, was_on="cuda NVIDIA H200")
    with pytest.raises(ConfigError, match=r"^the GPUs are of different kinds: A100, H200; choose those of one kind"):
        count("all", ["H200", "A100"])
    assert count(2, ["H200", "H200", "A100", "A100"]) == 2


def test_four_ranks_have_the_losses_of_one(tmp_path) -> None:
    one, four = (trained(tmp_path / f"{world}", world, steps=6, eval_every=0) for world in (1, 4))
    for name in ("loss", "grad_norm"):
        found = [getattr(row, name) for row in rows(four)]
        assert found == pytest.approx([getattr(row, name) for row in rows(one)], rel=1e-5)
    assert rows(four)[-1].val_loss == pytest.approx(rows(one)[-1].val_loss, rel=1e-5)


def test_in_half_precision_weights_are_rounded_where_one_rank_rounds_them(tmp_path) -> None:
    one, two = (
        trained(tmp_path / f"{world}", world, steps=6, precision="bf16", recompute="blocks") for world in (1, 2)
    )
    for name in ("loss", "grad_norm"):
        assert [getattr(row, name) for row in rows(two)] == pytest.approx(
            [getattr(row, name) for row in rows(one)], rel=1e-4
        )


def test_who_fails_because_another_is_gone_waits_to_be_ended(monkeypatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(place, "GONE_S", 0.05)
    monkeypatch.setattr(place.time, "sleep", slept.append)
    with subprocess.Popen(["sleep", "60"]) as other:
        ranks = [os.getpid(), other.pid]
        place.await_end(ranks)
        assert place.ENDED_S not in slept  # all live: what it met is its own, and is told
        other.kill()
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # a zombie, as the agent has it for a moment
        place.await_end(ranks)
        assert slept[-1] == place.ENDED_S
