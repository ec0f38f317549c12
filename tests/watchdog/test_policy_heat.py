"""Heat: paused above a limit, on again below a lower one, and never because of a sensor."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from policy_bench import SETTINGS, Bench

from adam.contract.records import Desired, Gpu
from adam.contract.states import Phase, RunState
from adam.watchdog.policy import restored
from adam.watchdog.policy_heat import cool, seen, too_hot
from adam.watchdog.policy_words import HeatLimits

LIMITS = HeatLimits()


@pytest.fixture
def bench() -> Bench:
    return Bench(SETTINGS, gpus=gpus(60), sensors="ok").run_to_training()


def gpus(*degrees: int | None, **fields: int) -> tuple[Gpu, ...]:
    return tuple(Gpu(index, temperature_c=item, **fields) for index, item in enumerate(degrees))


def paused(bench: Bench) -> bool:
    bench.tick()
    return bool(bench.decision.control.pause)


def test_pauses_above_and_goes_on_below(bench):
    for degrees, stands in ((80, False), (81, True), (95, True), (75, True), (70, True), (69, False), (80, False)):
        bench.see(gpus=gpus(degrees))
        assert paused(bench) == stands, degrees
    assert [told.facts["temperature_c"] for told in bench.told("heat")] == [81, 69]
    assert "GPU 0 at 81 °C" in bench.told("heat")[0].text


def test_says_who_pauses_and_how_hot_it_is(bench):
    bench.see(gpus=gpus(95), desired=Desired(pauses=("human",))).tick()
    bench.pulse(1, Phase.PAUSED).tick()
    assert bench.state == RunState.PAUSED and bench.decision.reason == "paused by human, heat (GPU 0 at 95 °C)"
    assert bench.told("paused")[0].facts["by"] == "human, heat"
    bench.see(gpus=gpus(60))
    assert paused(bench) and bench.decision.reason == "paused by human"
    bench.see(gpus=gpus(95), desired=Desired())
    assert paused(bench) and bench.decision.reason == "paused by heat (GPU 0 at 95 °C)"
    bench.see(gpus=gpus(60))
    assert not paused(bench)
    bench.pulse(1).tick()
    assert bench.told("resumed") and not bench.told("hung")


def test_a_pause_for_heat_is_no_hang_however_long(bench):
    bench.see(gpus=gpus(95))
    for _ in range(600):
        bench.pulse(1, Phase.PAUSED).tick(1)
    assert bench.state == RunState.PAUSED and not bench.told("hung") and len(bench.told("paused")) == 1


def test_each_gpu_has_its_own_hysteresis(bench):
    bench.see(gpus=gpus(60, 85))
    assert paused(bench)
    bench.see(gpus=gpus(79, 71))  # the first was never too hot, the second is still
    assert paused(bench)
    bench.see(gpus=gpus(79, 69))
    assert not paused(bench)


@pytest.mark.parametrize(
    ("hot", "warm", "fresh"),
    [
        ({"margin_c": 4}, {"margin_c": 15}, {"margin_c": 16}),
        ({"memory_temperature_c": 96}, {"memory_temperature_c": 85}, {"memory_temperature_c": 84}),
    ],
)
def test_the_chips_own_limit_and_its_memory_count_too(bench, hot, warm, fresh):
    for fields, stands in ((warm, False), (hot, True), (warm, True), (fresh, False)):
        bench.see(gpus=gpus(60, **fields))
        assert paused(bench) == stands, fields


@pytest.mark.parametrize(
    "blind", [{"sensors": "unknown", "gpus": ()}, {"sensors": "none", "gpus": ()}, {"gpus": gpus(None)}]
)
def test_sensors_that_say_nothing_pause_nothing(bench, blind):
    bench.see(**blind)
    for step in range(100):
        assert not bench.pulse(step).tick(60) and bench.state == RunState.TRAINING


@pytest.mark.parametrize("blind", [{"sensors": "unknown", "gpus": ()}, {"gpus": gpus(None)}, {"gpus": ()}])
def test_a_pause_outlives_its_sensor_for_a_bounded_time(bench, blind):
    bench.see(gpus=gpus(95))
    assert paused(bench)
    bench.see(**blind)
    for _ in range(int(LIMITS.blind_s) - 1):
        bench.pulse(1, Phase.PAUSED).tick(1)
        assert bench.decision.control.pause
    assert "its sensors say nothing" in bench.decision.notes[0]
    bench.tick(2)
    assert not bench.decision.control.pause and "taken to be cool" in bench.told("heat")[-1].text
    assert not bench.told("hung") and not bench.told("crashed")


def test_a_sensor_that_comes_back_counts_again(bench):
    bench.see(gpus=gpus(95)).tick()
    bench.see(sensors="unknown", gpus=()).tick(500)
    bench.see(sensors="ok", gpus=gpus(90)).tick(500)
    bench.see(sensors="unknown", gpus=()).tick(500)
    assert paused(bench)  # 500 s since it was last seen, not 1,000
    bench.see(sensors="ok", gpus=gpus(60))
    assert not paused(bench)


def test_the_next_watchdog_knows_of_the_heat_and_the_next_boot_does_not(bench):
    bench.see(gpus=gpus(95)).tick()
    bench.memory = restored(bench.memory, bench.now, same_boot=True)
    bench.see(sensors="unknown", gpus=())
    assert paused(bench)
    assert not restored(bench.memory, 1.0, same_boot=False).hot


def test_a_run_that_has_ended_is_not_paused(bench):
    bench.see(gpus=gpus(95)).tick()
    bench.see(desired=Desired(running=False)).ended(code=10).tick()
    bench.settle()
    bench.tick()
    assert bench.state == RunState.STOPPED
    bench.tick()
    assert not bench.memory.hot and not bench.decision.notes


degrees = st.one_of(st.none(), st.integers(20, 110))
chips = st.builds(Gpu, st.just(0), temperature_c=degrees, margin_c=degrees, memory_temperature_c=degrees)


@given(st.lists(st.tuples(chips, st.sampled_from(["ok", "unknown"]), st.floats(0.25, 400)), max_size=30))
def test_whatever_is_read(readings):
    """Hot as soon as it is seen; cool only where all that is seen is, or nothing was for blind_s; told once each way."""
    bench, hot, last_seen = Bench(), False, 0.0
    for gpu, sensors, seconds in readings:
        bench.see(gpus=(gpu,), sensors=sensors).tick(seconds)
        visible = sensors == "ok" and seen(gpu)
        last_seen = bench.now if visible else last_seen
        if visible and too_hot(LIMITS, gpu):
            assert not cool(LIMITS, gpu)
            hot = True
        elif (visible and cool(LIMITS, gpu)) or (
            hot and not bench.memory.hot and bench.now - last_seen >= LIMITS.blind_s
        ):
            hot = False
        assert bool(bench.memory.hot) == hot
    told = len(bench.told("heat"))
    assert told % 2 == int(hot)


def test_limits_can_be_set():
    bench = Bench(replace(SETTINGS, heat=HeatLimits(pause=50.0, resume=40.0)), gpus=gpus(51), sensors="ok")
    bench.tick()
    assert bench.memory.hot
