"""How often a checkpoint is written."""

import math

import pytest

from adam.contract.young import young_s
from adam.watchdog.pace import (
    DAY_S,
    DEATHS,
    SHORTEST_S,
    checkpoint_interval_s,
    death_interval_s,
    deaths_lately,
    failure_interval_s,
)

SEEN = {"cost_s": 30.0, "size": 33_200_000_000, "failures": 0, "watched_s": 0.0, "bytes_per_day": 1e15, "minutes": 0.0}


def test_young() -> None:
    assert young_s(30.0, DAY_S) == pytest.approx(math.sqrt(2 * 30 * 86400))
    assert checkpoint_interval_s(**{**SEEN, "cost_s": 5.0}) == pytest.approx(929.5, rel=1e-3)


def test_young_loses_least() -> None:
    """Overhead of an interval T: cost / T for saving and T / (2 M) for what is lost; no other T is better."""

    def overhead(interval: float) -> float:
        return 30 / interval + interval / (2 * DAY_S)

    best = young_s(30.0, DAY_S)
    assert all(overhead(best) <= overhead(best * factor) for factor in (0.5, 0.9, 1.1, 2.0))


def test_a_machine_that_fails_more_often_saves_more_often() -> None:
    assert failure_interval_s(0, 0) == DAY_S
    assert failure_interval_s(9, 9 * DAY_S) == DAY_S
    cheap = {**SEEN, "cost_s": 5.0}
    seldom = checkpoint_interval_s(**{**cheap, "watched_s": 14 * DAY_S, "failures": 9})
    assert seldom > checkpoint_interval_s(**cheap) > checkpoint_interval_s(**{**cheap, "failures": 3})


def test_never_under_ten_minutes_and_never_beyond_the_bytes_of_a_day() -> None:
    assert checkpoint_interval_s(**{**SEEN, "cost_s": 0.01}) == SHORTEST_S
    every = checkpoint_interval_s(**{**SEEN, "bytes_per_day": 500e9})
    assert 33.2e9 * DAY_S / every <= 500e9 * 1.0001
    assert checkpoint_interval_s(**{**SEEN, "cost_s": 0.0, "size": 0}) > SHORTEST_S  # nothing measured yet


def test_what_people_set_holds() -> None:
    assert checkpoint_interval_s(**{**SEEN, "minutes": 2.0, "bytes_per_day": 1.0}) == 120


def test_a_machine_that_never_fails_still_saves_every_twenty_minutes() -> None:
    """The simulated years lost hours at a reboot where the interval had grown with each day that went well."""
    assert checkpoint_interval_s(**{**SEEN, "watched_s": 1000 * DAY_S}) == 1200.0


def test_how_often_processes_die_is_judged_by_the_last_hour() -> None:
    assert death_interval_s((), 1000.0) == death_interval_s((990.0,), 1000.0) == 0
    assert death_interval_s((910.0, 940.0, 970.0), 971.0) == death_interval_s((910.0, 940.0, 970.0), 1000.0) == 30
    assert death_interval_s((910.0, 940.0, 970.0), 5000.0) == 0  # long ago
    assert death_interval_s((5000.0, 6000.0), 1000.0) == 0  # of a boot that was longer
    assert deaths_lately(tuple(float(at) for at in range(100)), 100.0) == tuple(range(100 - DEATHS, 100))
