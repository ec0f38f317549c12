"""The power cap's policy: slow down before pausing, and give back what was taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from adam.contract.records import Gpu
from adam.watchdog.policy_power import Cap, CapRules, room_of, wanted_limit
from adam.watchdog.policy_words import HeatLimits

RULES = CapRules(floor_w=500.0)
FOUND = Cap(original_w=700.0, limit_w=700.0, least_w=200.0)


def test_goes_down_a_step_at_a_time_and_up_again_to_what_it_was() -> None:
    cap, now, seen = FOUND, 0.0, []
    for room in [3.9] * 8 + [4.0, 8.0] + [8.1] * 8:
        limit = wanted_limit(RULES, cap, room, now)
        cap = replace(cap, limit_w=limit, since=now if limit != cap.limit_w else cap.since)
        seen.append(round(limit))
        now += RULES.every_s
    assert seen[:8] == [665, 630, 595, 560, 525, 500, 500, 500], "down to the floor"
    assert seen[8:10] == [500, 500], "neither way in between"
    assert seen[10:] == [535, 570, 605, 640, 675, 700, 700, 700]


def test_a_step_takes_its_time_to_show() -> None:
    lowered = replace(FOUND, limit_w=665.0, since=100.0)
    assert wanted_limit(RULES, lowered, 0.0, 100.0 + RULES.every_s - 0.1) == 665.0
    assert wanted_limit(RULES, lowered, 0.0, 100.0 + RULES.every_s) == 630.0


def test_off_means_what_was_found_and_at_once() -> None:
    assert wanted_limit(CapRules(), replace(FOUND, limit_w=525.0, since=100.0), 0.0, 100.0) == 700.0
    assert wanted_limit(RULES, replace(FOUND, limit_w=525.0), None, 0.0) == 525.0, "a blind sensor changes nothing"
    assert wanted_limit(RULES, replace(FOUND, least_w=680.0), 0.0, 0.0) == 680.0, "the chip's own least"
    assert wanted_limit(RULES, replace(FOUND, original_w=450.0, limit_w=450.0), 0.0, 0.0) == 450.0, "lower already"


@pytest.mark.parametrize(
    ("fields", "room"),
    [
        ({"temperature_c": 77}, 3.0),
        ({"temperature_c": 60, "margin_c": 6}, 1.0),
        ({"temperature_c": 60, "memory_temperature_c": 95}, 0.0),
        ({}, None),
    ],
)
def test_the_sensor_that_is_nearest_to_a_pause_counts(fields, room) -> None:
    assert room_of(HeatLimits(), Gpu(0, **fields)) == room


@given(
    st.lists(st.tuples(st.none() | st.floats(-30, 60), st.floats(0, 100)), max_size=60),
    st.floats(0, 900),
    st.floats(100, 700),
)
def test_never_beyond_what_was_found_nor_below_the_floor(readings, floor, least) -> None:
    rules, cap, now = CapRules(floor_w=floor), replace(FOUND, least_w=least), 0.0
    for room, seconds in readings:
        now += seconds
        limit = wanted_limit(rules, cap, room, now)
        assert min(700.0, max(floor, least)) <= limit <= 700.0
        assert limit == cap.limit_w or cap.since is None or now - cap.since >= rules.every_s or not floor
        cap = replace(cap, limit_w=limit, since=now if limit != cap.limit_w else cap.since)


def hottest(rules: CapRules, ambient: float) -> float:
    """The highest temperature that a GPU reaches in an hour: 0.07 °C a watt above the air, seen after a minute; it draws its limit."""
    cap, temperature, highest = FOUND, ambient, 0.0
    for second in range(3600):
        temperature += (ambient + 0.07 * cap.limit_w - temperature) / 60
        highest = max(highest, temperature)
        if second % 5 == 0:
            room = room_of(rules.heat, Gpu(0, temperature_c=round(temperature)))
            limit = wanted_limit(rules, cap, room, float(second))
            cap = replace(cap, limit_w=limit, since=float(second) if limit != cap.limit_w else cap.since)
    return highest


def test_it_keeps_a_warm_box_from_pausing() -> None:
    assert hottest(CapRules(), 33.0) > HeatLimits().pause, "without a cap this box would pause"
    assert hottest(RULES, 33.0) <= HeatLimits().pause
