"""A GPU that fell off the bus, or a driver that was changed under the run: no restart helps, so none is tried and nothing is given up."""

import pytest
from msgspec.structs import replace
from policy_bench import SETTINGS, Bench, kept

from adam.contract.states import Exit, RunState
from adam.watchdog.policy_words import Launch, Stage


def gone(fault: str, code: int, gpu: bool = True) -> Bench:
    """A trainer that ended with `code` when its GPU was gone, and all that is wanted next."""
    bench = Bench(replace(SETTINGS, gpu=gpu)).run_to_training(*kept(100), step=100)
    bench.see(sensors="unknown", fault=fault).ended(code).tick()
    for _ in range(400):
        bench.tick()
        if bench.memory.stage == Stage.SETTLING:
            bench.settle(*kept(100))
    return bench


@pytest.mark.parametrize("fault", ["lost", "mismatch"])
@pytest.mark.parametrize("code", [Exit.CODE, Exit.CONFIG])
def test_it_is_waited_for(fault, code) -> None:
    bench = gone(fault, code)
    assert len(bench.of(Launch)) == 1 and bench.state == RunState.RESTARTING
    (note,) = bench.decision.notes
    assert "machine" in note and "trainer.device" in note
    bench.see(sensors="ok", fault="")
    bench.tick()
    assert len(bench.of(Launch)) == 2, "it is there again"


def test_a_run_that_is_to_train_without_one_does_not_wait() -> None:
    assert len(gone("mismatch", Exit.CODE, gpu=False).of(Launch)) > 1
    assert gone("mismatch", Exit.CONFIG, gpu=False).state == RunState.FAILED


def test_an_error_of_the_configuration_is_one_where_the_gpus_are_there() -> None:
    assert gone("", Exit.CONFIG).state == RunState.FAILED


def test_people_may_stop_a_run_that_waits() -> None:
    bench = gone("lost", Exit.CODE)
    bench.see(desired=replace(bench.seen.desired, running=False))
    for _ in range(40):
        bench.tick()
        if bench.memory.stage == Stage.SETTLING:
            bench.settle(*kept(100))
    assert bench.state == RunState.STOPPED
