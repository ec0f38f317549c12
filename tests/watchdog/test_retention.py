"""Which checkpoints may go."""

from hypothesis import given
from hypothesis import strategies as st

from adam.contract.retention import Rules, in_order, why_kept
from adam.watchdog.retention import Kept, superfluous

HOUR = 3600.0


def kept(*steps: int, bad: tuple[int, ...] = ()) -> list[Kept]:
    return [Kept(f"step-{step}", step, 1, step not in bad) for step in steps]


def at(*hours: float) -> list[Kept]:
    """Checkpoints of steps 0, 1, 2, …, made at these hours of the wall clock."""
    return [Kept(f"step-{step}", step, 1, True, hour * HOUR) for step, hour in enumerate(hours)]


def test_last_ones_and_milestones_stay():
    assert superfluous(kept(10, 20, 30, 40, 50), Rules(2, 20), {}) == ["step-10", "step-30"]
    assert superfluous(kept(10, 20, 30), Rules(5), {}) == []


def test_a_milestone_that_came_late_is_one_too():
    """A busy disk delays it; the steps before the first multiple have none."""
    assert superfluous(kept(90, 103, 110, 205, 210, 300), Rules(1, 100), {}) == ["step-90", "step-110", "step-210"]


def test_the_last_verified_stays_and_all_after_it():
    assert superfluous(kept(10, 20, 30, 40, 50, bad=(30, 40, 50)), Rules(1), {}) == ["step-10"]
    assert superfluous(kept(10, 20, bad=(10, 20)), Rules(1), {}) == []


def test_pinned_ones_stay_whoever_pinned_them():
    pins = {"step-10": ("human",), "step-20": ("upload",), "step-99": ("human",)}
    assert superfluous(kept(10, 20, 30, 40), Rules(1), pins) == ["step-30"]


def test_the_first_of_each_window_of_hours_stays():
    assert superfluous(at(0.1, 0.9, 2.0, 2.1, 3.9, 4.0, 9.0), Rules(1, keep_every_hours=2), {}) == [
        "step-1", "step-3", "step-4",
    ]  # fmt: skip


def test_a_clock_that_jumps_back_costs_no_checkpoint_its_place():
    # 0 to 3 by a clock that is 100 hours ahead; then it is set right.
    items = at(100.0, 100.5, 101.0, 101.5, 2.0, 2.5, 3.0, 3.5, 4.0)
    gone = superfluous(items, Rules(1, keep_every_hours=1), {})
    assert gone == ["step-1", "step-3", "step-5", "step-7"]


def test_one_whose_time_can_not_be_read_is_kept_where_hours_count():
    items = [Kept("a", 1, 1, True), Kept("b", 2, 1, True, 10.0), Kept("c", 3, 1, True, 20.0), Kept("d", 4, 1, True)]
    assert superfluous(items, Rules(1, keep_every_hours=1), {}) == ["c"]
    assert superfluous(items, Rules(1), {}) == ["a", "b", "c"]


def test_the_newest_from_before_a_chip_was_last_seen_to_compute_right_stays():
    assert superfluous(kept(10, 20, 30, 40, 50), Rules(2), {}, sound=25) == ["step-10", "step-30"]
    assert superfluous(kept(10, 20, 30, 40, 50), Rules(2), {}, sound=20) == ["step-10", "step-30"]
    assert superfluous(kept(10, 20, 30), Rules(1), {}, sound=9) == ["step-10", "step-20"]
    assert why_kept(kept(10, 20), Rules(1), {}, sound=10) == {"step-10": ("sound",), "step-20": ("newest",)}


def test_reasons_in_words():
    items = at(0.0, 0.1, 5.0, 5.1)
    reasons = why_kept(items, Rules(1, 3, 4.0), {"step-1": ("human",)})
    assert reasons == {
        "step-0": ("hourly",), "step-1": ("pinned",), "step-2": ("hourly",), "step-3": ("newest", "milestone"),
    }  # fmt: skip


# Times in any order and of any size: a wall clock may say anything.
checkpoints = st.lists(
    st.builds(
        lambda step, attempt, good, made: Kept(f"{step}-{attempt}", step, attempt, good, made),
        st.integers(0, 60),
        st.integers(1, 3),
        st.booleans(),
        st.none() | st.floats(0, 50 * HOUR) | st.floats(allow_nan=False, allow_infinity=False),
    ),
    unique_by=lambda item: item.name,
)
rules = st.builds(Rules, st.integers(1, 5), st.integers(0, 20), st.just(0.0) | st.floats(0, 30))
wanted = st.dictionaries(
    st.builds("{}-{}".format, st.integers(0, 60), st.integers(1, 3)), st.just(("human",)), max_size=20
)


@given(checkpoints, rules, wanted)
def test_whatever_there_is(items, rules, pins):
    gone = superfluous(items, rules, pins)
    left = [item for item in items if item.name not in gone]
    ordered = in_order(items)
    names = [item.name for item in ordered]
    assert gone == [name for name in names if name in set(gone)]  # oldest first
    assert len(left) >= min(rules.keep_last, len(items))
    verified = [item for item in ordered if item.verified]
    if verified:
        assert not set(gone) & set(names[names.index(verified[-1].name) :])
    else:
        assert not gone
    assert not set(gone) & set(pins)
    if every := rules.milestone_every:
        windows = {item.step // every for item in items if item.step >= every}
        assert windows <= {item.step // every for item in left}
    assert not superfluous(left, rules, pins)  # nothing more goes the second time


@given(checkpoints, rules, wanted)
def test_what_the_rules_keep_stays_when_room_is_needed(items, rules, pins):
    """Fewer of the newest are kept then, and nothing else changes."""
    tight = superfluous(items, Rules(1, rules.milestone_every, rules.keep_every_hours), pins)
    reasons = why_kept(items, rules, pins)
    assert all(set(reasons[name]) <= {"newest"} for name in tight)
    assert set(superfluous(items, rules, pins)) <= set(tight)


@given(checkpoints, st.floats(0.001, 30))
def test_every_window_of_hours_keeps_one(items, hours):
    left = {item.name for item in items} - set(superfluous(items, Rules(1, keep_every_hours=hours), {}))
    width = hours * HOUR
    windows = {item.made // width for item in items if item.made is not None}
    assert windows == {item.made // width for item in items if item.name in left and item.made is not None}
