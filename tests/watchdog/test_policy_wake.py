"""`wake_at`: a watchdog that looks only then (and a second after it heard nothing) misses nothing, and sleeps where all goes well."""

import pytest
from msgspec.structs import replace
from policy_bench import SETTINGS, Bench, kept

from adam.contract.records import Desired, Gpu
from adam.contract.states import Phase, RunState
from adam.watchdog.policy import RESTING_S
from adam.watchdog.policy_idle import ASK_AGAIN_S
from adam.watchdog.policy_pulse import LONGEST_TICK_S
from adam.watchdog.policy_words import AskSettle, Launch, Signal, Stage


def left(bench: Bench) -> float:
    """Seconds until the policy wants to look again."""
    assert bench.decision is not None
    return bench.decision.wake_at - bench.now


def test_while_all_goes_well_only_the_next_checkpoint_has_a_time() -> None:
    bench = Bench(replace(SETTINGS, checkpoint_minutes=20.0))
    bench.run_to_training()
    begun = bench.memory.saved_at
    bench.pulse(1).tick()
    assert bench.decision.wake_at == begun + 1200.0
    bench.pulse(900).tick(left(bench))
    assert bench.decision.control.due and left(bench) == 1200.0


def test_where_nothing_has_a_time_it_rests() -> None:
    bench = Bench(replace(SETTINGS, by_steps_only=True))
    bench.run_to_training()
    assert left(bench) == RESTING_S


def test_whoever_hears_nothing_looks_each_second() -> None:
    bench = Bench()
    bench.run_to_training()
    bench.tick(LONGEST_TICK_S)  # the pulse stands still
    assert left(bench) == LONGEST_TICK_S
    bench.pulse(2).tick(LONGEST_TICK_S)
    assert left(bench) > LONGEST_TICK_S


@pytest.mark.parametrize("phase", [Phase.TRAINING, Phase.SAVING, Phase.PAUSED])
def test_a_hang_is_found_as_soon_as_by_looking_all_the_time(phase: Phase) -> None:
    """Within a second of the moment at which four looks a second find it."""
    found = {}
    for name, most in (("often", 0.25), ("seldom", LONGEST_TICK_S)):
        bench = Bench()
        bench.run_to_training()
        bench.see(desired=Desired(pauses=("human",) if phase == Phase.PAUSED else ()))
        bench.pulse(5, phase).tick()
        since = bench.now
        while not bench.of(Signal):
            bench.tick(min(most, left(bench)))
            assert bench.now < since + 2 * SETTINGS.save_seconds + 60
        found[name] = bench.now - since
    assert found["often"] <= found["seldom"] <= found["often"] + LONGEST_TICK_S


def test_a_back_off_is_slept_through() -> None:
    bench = Bench()
    bench.run_to_training(*kept(100), step=100)
    bench.ended(number=9).tick()
    bench.tick()
    bench.settle(*kept(100))
    bench.tick(0.01)
    launches = len(bench.of(Launch))
    assert bench.memory.stage == Stage.IDLE and bench.decision.wake_at == bench.memory.not_before
    bench.tick(left(bench))
    assert len(bench.of(Launch)) == launches + 1


def test_what_was_asked_for_is_asked_again_in_time() -> None:
    bench = Bench()
    bench.tick()
    asked = len(bench.of(AskSettle))
    for _ in range(4):
        assert left(bench) <= ASK_AGAIN_S
        bench.tick(left(bench))
    assert len(bench.of(AskSettle)) >= asked + 2, "a keeper that died with the question"
    bench.settle()
    bench.tick()
    launched = len(bench.of(Launch))
    bench.see(launch_error="supervisord did not answer")
    bench.tick()
    assert LONGEST_TICK_S < left(bench) <= ASK_AGAIN_S, "a disk that is full is so for hours"
    bench.tick(left(bench))
    assert len(bench.of(Launch)) == launched + 1


def test_hot_and_blind_wakes_when_the_blindness_is_over() -> None:
    bench = Bench(replace(SETTINGS, by_steps_only=True, heat=replace(SETTINGS.heat, blind_s=50.0)))
    bench.run_to_training()
    bench.see(gpus=(Gpu(index=0, temperature_c=95),), sensors="ok").pulse(3).tick()
    assert bench.decision.control.pause
    bench.see(gpus=(), sensors="unknown").pulse(3, Phase.PAUSED).tick()
    assert bench.state == RunState.PAUSED and left(bench) == 50.0
    bench.pulse(3, Phase.PAUSED).tick(50.0)
    assert not bench.decision.control.pause
