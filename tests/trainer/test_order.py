"""The order of data: a permutation, the same for ever, that any position can be asked of."""

import collections

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
