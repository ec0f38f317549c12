"""The order of data: phases of permutations, the same for ever, that any position can be asked of."""

import collections
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam.trainer.order import DataOrder, Permutation, take


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**64 - 1))
def test_every_item_comes_exactly_once(size: int, seed: int) -> None:
    permutation = Permutation(size, seed)
    assert sorted(permutation[index] for index in range(size)) == list(range(size))


def test_the_order_never_changes_between_versions() -> None:
    # A checkpoint is a position in this order: changing it would train on other samples after an upgrade.
    permutation = Permutation(1000, 42)
    assert [permutation[index] for index in range(8)] == GOLDEN


GOLDEN = [467, 103, 168, 228, 71, 101, 219, 966]


@pytest.mark.parametrize(
    ("samples", "seed", "first", "digest"),
    [
        (1, 0, [0, 0, 0], "4a31f3538925bbcbda013611e7e88a16a04e1c6b4247892ef7b91168949d83f0"),
        (97, 3, [87, 35, 62], "ce638fa9f590c30d9c9237f7486146634338eb66f317e65260e7d32048e8a693"),
        (4096, 2**63 - 1, [2093, 236, 899], "4c762779069d3342ae4b91ffb1974f9a0011f211878d29c6953cb7a3d80a8803"),
    ],
)
def test_one_phase_is_the_order_that_runs_had_before_there_were_phases(samples, seed, first, digest) -> None:
    for order in (DataOrder(samples, seed), DataOrder(samples, seed, (0,))):
        found = [order.sample_at(position) for position in range(min(3 * samples, 9000))]
        assert found[:3] == first
        assert hashlib.sha256(" ".join(map(str, found)).encode()).hexdigest() == digest


def test_the_order_of_phases_never_changes_between_versions() -> None:
    order = DataOrder(100, 42, (0, 30, 31, 90))
    assert [order.sample_at(position) for position in GOLDEN_PHASES] == list(GOLDEN_PHASES.values())


GOLDEN_PHASES = {0: 25, 29: 19, 30: 30, 31: 76, 32: 56, 89: 31, 90: 92, 99: 98, 100: 21, 131: 73, 190: 93, 1031: 85}

cut_samples = st.integers(1, 200).flatmap(
    lambda samples: st.tuples(
        st.just(samples), st.sets(st.integers(1, samples), max_size=5).map(lambda cuts: sorted({0, *cuts} - {samples}))
    )
)


@given(data=cut_samples, seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 2**31))
def test_an_epoch_visits_each_sample_once_and_its_phases_in_order(data, seed: int, epoch: int) -> None:
    samples, segments = data
    order = DataOrder(samples, seed, segments)
    seen = [order.sample_at(epoch * samples + index) for index in range(samples)]
    for first, end in zip(segments, [*segments[1:], samples], strict=True):
        assert sorted(seen[first:end]) == list(range(first, end))


@given(data=cut_samples, seed=st.integers(0, 9), positions=st.lists(st.integers(0, 2000), max_size=20))
def test_any_position_can_be_asked_of_at_any_time(data, seed: int, positions: list[int]) -> None:
    samples, segments = data
    order = DataOrder(samples, seed, segments)
    for position in positions:
        assert order.sample_at(position) == DataOrder(samples, seed, segments).sample_at(position)


def test_each_phase_is_shuffled_in_its_own_way() -> None:
    order = DataOrder(200, 5, (0, 50, 100, 150))
    drawn = [
        [order.sample_at(epoch * 200 + at + i) - at for i in range(50)]
        for epoch in range(3)
        for at in (0, 50, 100, 150)
    ]
    assert len(set(map(tuple, drawn))) == 12
    assert list(range(50)) not in drawn


@pytest.mark.parametrize("segments", [(), (1, 5), (0, 5, 5), (0, 6, 5), (0, 10), (0, 11)])
def test_phases_without_samples_are_an_error(segments: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="of 10 samples"):
        DataOrder(10, 0, segments)


def test_skipped_ranges_may_lie_across_phases() -> None:
    order = DataOrder(40, 1, (0, 20))
    taken, behind = take(10, 8, [(15, 25)])
    assert (taken, behind) == ([10, 11, 12, 13, 14, 25, 26, 27], 28)
    assert [order.sample_at(position) < 20 for position in taken] == [True] * 5 + [False] * 3


def test_seeds_and_epochs_give_other_orders() -> None:
    orders = {
        tuple(DataOrder(50, seed).sample_at(epoch * 50 + i) for i in range(50))
        for seed in range(5)
        for epoch in range(4)
    }
    assert len(orders) == 20


def test_seeking_costs_nothing_and_agrees_with_going_there() -> None:
    walked = DataOrder(97, 3)
    there = [walked.sample_at(position) for position in range(97 * 3)]
    for position in (290, 5, 97, 96, 194):
        assert DataOrder(97, 3).sample_at(position) == there[position]


def test_the_permutation_looks_random() -> None:
    size = 4096
    permutation = Permutation(size, 1)
    deciles = collections.Counter(permutation[index] * 10 // size for index in range(410))
    assert min(deciles.values()) > 20
    fixed = sum(permutation[index] == index for index in range(size))
    neighbours = sum(abs(permutation[index] - permutation[index + 1]) == 1 for index in range(size - 1))
    assert fixed < 10
    assert neighbours < 15


def test_outside_of_the_range_is_an_error() -> None:
    with pytest.raises(IndexError):
        Permutation(5, 0)[5]
    with pytest.raises(ValueError, match="0 items"):
        Permutation(0, 0)


ranges = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda r: (r[0], r[0] + r[1])), max_size=5)


@given(start=st.integers(0, 50), count=st.integers(0, 40), skip=ranges)
def test_skipped_positions_are_never_taken_and_all_others_once(
    start: int, count: int, skip: list[tuple[int, int]]
) -> None:
    forbidden = {position for begin, end in skip for position in range(begin, end)}
    taken, behind = take(start, count, skip)
    wanted = [position for position in range(start, start + count + 200) if position not in forbidden]
    assert taken == wanted[:count]
    assert behind == wanted[count]
