"""Which checkpoints may go."""

from hypothesis import given
from hypothesis import strategies as st

from adam.watchdog.retention import Kept, superfluous


def kept(*steps: int, bad: tuple[int, ...] = ()) -> list[Kept]:
    return [Kept(f"step-{step}", step, 1, step not in bad) for step in steps]


def test_last_ones_and_milestones_stay():
    assert superfluous(kept(10, 20, 30, 40, 50), 2, 20) == ["step-10", "step-30"]
    assert superfluous(kept(10, 20, 30), 5, 0) == []


def test_the_last_verified_stays_and_all_after_it():
    assert superfluous(kept(10, 20, 30, 40, 50, bad=(30, 40, 50)), 1, 0) == ["step-10"]
    assert superfluous(kept(10, 20, bad=(10, 20)), 1, 0) == []


checkpoints = st.lists(
    st.builds(
        lambda step, attempt, good: Kept(f"{step}-{attempt}", step, attempt, good),
        st.integers(0, 60),
        st.integers(1, 3),
        st.booleans(),
    ),
    unique_by=lambda item: item.name,
)


@given(checkpoints, st.integers(1, 5), st.integers(0, 20))
def test_whatever_there_is(items, keep_last, milestone_every):
    gone = set(superfluous(items, keep_last, milestone_every))
    left = [item for item in items if item.name not in gone]
    ordered = sorted(items, key=lambda item: (item.step, item.attempt))
    assert gone <= {item.name for item in items}
    assert len(left) >= min(keep_last, len(items))
    verified = [item for item in ordered if item.verified]
    if verified:
        after = ordered[ordered.index(verified[-1]) :]
        assert not gone & {item.name for item in after}
    assert not superfluous(left, keep_last, milestone_every)  # nothing more goes the second time
