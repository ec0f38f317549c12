"""When a snapshot is due."""

import math

import pytest

from adam.contract.shared import Control
from adam.trainer.pace import SHARE, Pace, steps_between, young_steps

NOTHING = Control()


@pytest.mark.parametrize(("stall", "step"), [(0.015, 0.25), (0.0155, 0.5), (0.2, 0.3), (1e-6, 1.0)])
def test_memory_costs_under_half_a_per_cent(stall: float, step: float) -> None:
    every = steps_between(stall, step)
    assert stall / (every * step) <= SHARE < 0.005
    assert every == 1 or stall / ((every - 1) * step) > SHARE  # and no rarer than that


def test_memory_is_paced_by_what_it_costs() -> None:
    pace = Pace(0, 0)
    assert pace.due(1, NOTHING, in_ram=True) == "ram"
    for step in range(1, 12):
        pace.stepped(0.25)
        pace.begun(step, NOTHING, 0.010)
    assert pace.every_in_ram == math.ceil(0.010 / (SHARE * 0.25)) == 10
    assert [step for step in range(12, 24) if pace.due(step, NOTHING, in_ram=True)] == [21, 22, 23]
    assert not pace.due(30, NOTHING, in_ram=False)


def test_what_a_copy_takes_from_the_steps_beside_it_is_counted() -> None:
    """A device that waits for the host all the time (small steps) is slowed by the threads that empty its buffers."""
    pace = Pace(0, 0)
    for step in range(200):
        pace.stepped(0.35 if step % 20 < 4 else 0.25, beside=step % 20 < 4)
        if step % 20 == 0:
            pace.begun(step, NOTHING, 0.02)
    assert pace.cost_s == pytest.approx(0.02 + 4 * 0.1)
    assert pace.every_in_ram == math.ceil(0.42 / (SHARE * 0.25)) == 420
    for step in range(200, 400):  # steps that are large enough do not notice
        pace.stepped(0.25, beside=step % 20 < 4)
    assert pace.cost_s == pytest.approx(0.02)


def test_where_trainers_die_often_snapshots_are_as_close_as_loses_least() -> None:
    def lost(every: int) -> float:
        return 0.025 / (every * 0.5) + every * 0.5 / (2 * 30)

    best = young_steps(0.025, 0.5, 30.0)
    assert best == 2 and all(lost(best) <= lost(other) for other in (1, 3, 4, 10))
    now = [100.0]
    pace = Pace(0, 0, death_interval_s=30.0, clock=lambda: now[0])
    for step in range(1, 12):
        pace.stepped(0.5)
        pace.begun(step, NOTHING, 0.025)
    assert pace.every_in_ram == best
    now[0] += 3600.0  # … and for an hour now they have not
    assert pace.every_in_ram == steps_between(0.025, 0.5) == 13


def test_people_set_the_pace() -> None:
    pace = Pace(0, 7)
    pace.begun(1, NOTHING, 5.0)
    assert [step for step in range(2, 10) if pace.due(step, NOTHING, in_ram=True)] == [8, 9]


def test_multiples_of_a_step_are_durable_and_requests_come_first() -> None:
    pace = Pace(10, 0)
    pace.begun(9, NOTHING, 0.0)
    assert pace.due(10, NOTHING, in_ram=True) == "interval"
    assert pace.due(10, Control(saves=1), in_ram=True) == "request"
    pace.begun(10, Control(saves=1), 0.0)
    assert not pace.asked(Control(saves=1))
    assert pace.due(11, Control(saves=1, due=5), in_ram=False) == "interval"
    pace.begun(11, Control(saves=1, due=5), 0.0)
    assert not pace.due(12, Control(saves=1, due=5), in_ram=False)


def test_what_could_not_be_begun_is_tried_again_a_little_later() -> None:
    now = [0.0]
    pace = Pace(10, 0, clock=lambda: now[0])
    assert pace.due(10, NOTHING, in_ram=False) == "interval"
    pace.postponed()
    assert not pace.due(11, NOTHING, in_ram=False)
    now[0] = 2.0
    assert pace.due(12, NOTHING, in_ram=False) == "interval"


def test_milestones_are_durable_without_anybody_asking_and_are_not_forgotten() -> None:
    now = [0.0]
    pace = Pace(0, 1000, 100, clock=lambda: now[0])
    pace.begun(99, NOTHING, 0.0)
    assert pace.due(100, Control(saves=1, due=2), in_ram=True) == "milestone"
    pace.postponed()
    now[0] = 2.0
    assert pace.due(103, Control(saves=1, due=2), in_ram=True) == "milestone"
    pace.begun(103, Control(saves=1, due=2), 0.0)
    assert not pace.due(104, Control(saves=1, due=2), in_ram=True)
