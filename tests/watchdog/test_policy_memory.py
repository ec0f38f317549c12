"""The policy where memory did not suffice: half the micro-batch, until one sample at once is too many."""

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from policy_bench import SETTINGS, Bench, kept

from adam.contract.states import RunState
from adam.watchdog.policy_memory import smaller
from adam.watchdog.policy_words import Changes, Launch


@pytest.fixture
def bench() -> Bench:
    return Bench(replace(SETTINGS, batch_size=24, micro_batch=8))


def dies(bench: Bench, step: int = 25, **how: object) -> None:
    bench.run_to_training(*kept(10, 20), step=step).ended(**how).tick()


def next_plan(bench: Bench):
    bench.run_to_training(*kept(10, 20), step=20)
    return bench.of(Launch)[-1].plan


@pytest.mark.parametrize("how", [{"code": 8}, {"number": signal.SIGKILL, "oom_killed": True}])
def test_out_of_memory_halves_the_micro_batch(bench, how):
    dies(bench, **how)
    assert bench.memory.failures.kind == "memory"
    plan = next_plan(bench)
    assert plan.micro_batch == 4 and plan.resume.step == 20 and "4 samples at once" in plan.why
    assert "4 samples are computed at once, not 8; an update has 24 as ever" in bench.told("plan_changed")[0].text
    bench.ended(code=1).tick()
    assert next_plan(bench).micro_batch == 4  # it stays so


def test_a_kill_by_somebody_changes_nothing(bench):
    for _ in range(5):
        dies(bench, number=signal.SIGKILL)
    assert next_plan(bench).micro_batch == 0 and not bench.told("plan_changed")


def test_at_one_sample_it_is_tried_again_and_then_fails(bench):
    for expected in (4, 2, 1):
        dies(bench, code=8)
        assert bench.memory.changes.micro_batch == expected
    with pytest.raises(AssertionError, match="computing one sample at once"):
        for _ in range(9):
            dies(bench, code=8)
    assert bench.state == RunState.FAILED and "the last word" in bench.decision.reason
    assert len(bench.told("plan_changed")) == 3  # no older checkpoint: that would not help


def test_the_forge_has_no_micro_batch(bench):
    bench.see(data_ready=False).tick()
    bench.settle()
    bench.tick()
    bench.started().ended(code=8).tick()
    assert bench.memory.failures.kind == "memory" and bench.memory.changes is None


def test_what_people_configure_since_counts_where_it_is_smaller():
    changes = Changes(micro_batch=4)
    for micro_batch, planned in ((8, 4), (4, 0), (2, 0)):
        bench = Bench(replace(SETTINGS, batch_size=24, micro_batch=micro_batch), changes=changes)
        assert next_plan(bench).micro_batch == planned
    bench = Bench(replace(SETTINGS, batch_size=18, micro_batch=9), changes=changes)  # another batch, in a fork
    assert next_plan(bench).micro_batch == 0


def test_each_gpu_has_a_share_of_the_batch_in_whole_micro_batches():
    bench = Bench(replace(SETTINGS, batch_size=36, micro_batch=9, gpus=2))
    dies(bench, code=8)
    assert bench.memory.changes.micro_batch == next_plan(bench).micro_batch == 3  # 4 divide 36, and no share of 18
    fewer = Bench(replace(SETTINGS, batch_size=36, micro_batch=9, gpus=1), changes=Changes(micro_batch=4))
    assert next_plan(fewer).micro_batch == 4
    more = Bench(replace(SETTINGS, batch_size=36, micro_batch=9, gpus=2), changes=Changes(micro_batch=4))
    assert next_plan(more).micro_batch == 0


@given(st.integers(1, 200), st.integers(1, 50))
def test_smaller_divides_and_halves(micro_batch, times):
    batch = micro_batch * times
    found = smaller(micro_batch, batch)
    assert batch % found == 0 and (found <= micro_batch / 2 or micro_batch == found == 1)
    assert not any(batch % size == 0 for size in range(found + 1, micro_batch // 2 + 1))
