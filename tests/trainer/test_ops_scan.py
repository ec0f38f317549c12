"""The reference's scan: what every backend's must do, and its chunks. That it equals the recurrence is in test_ops.py, too."""

import pytest
import scan_checks
import torch
from scan_checks import Scan

from adam.trainer.ops import scan as module
from adam.trainer.ops.reference import ReferenceOps

DOUBLE = Scan(ReferenceOps(), "cpu", torch.float64, 1e-9)
SINGLE = Scan(ReferenceOps(), "cpu", torch.float32, 1e-4)


def test_gradients_do_not_depend_on_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    values, resets = DOUBLE.inputs(2, 50, 6, 3), DOUBLE.resets(2, 50)
    results = []
    for tokens in (1, 7, 49, 50):
        monkeypatch.setattr(module, "CHUNK_BYTES", tokens * 2 * 6 * 3 * 8)
        results.append(DOUBLE.both_ways(values, resets))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


@pytest.mark.parametrize("documents", [False, True])
def test_from_a_state_on_it_equals_the_recurrence(documents: bool) -> None:
    scan_checks.equals_the_recurrence(DOUBLE, (2, 23, 5, 3), documents=documents)


def test_pieces_that_hand_the_state_on_equal_the_whole() -> None:
    scan_checks.pieces_that_hand_the_state_on_equal_the_whole(DOUBLE)


def test_gradients_of_packed_documents_equal_those_of_the_documents_apart() -> None:
    scan_checks.packed_documents_equal_documents_apart(DOUBLE)


@pytest.mark.parametrize("rate", [1e-30, 1e-3, 1e3])
def test_a_reset_forgets_all_at_any_decay(rate: float) -> None:
    scan_checks.a_reset_forgets_all_at_any_decay(SINGLE, rate)


def test_a_long_sequence_in_single_precision_is_near_the_exact_one() -> None:
    scan_checks.long_sequences_stay_near(SINGLE)


def test_autocast_changes_nothing() -> None:
    scan_checks.autocast_changes_nothing(SINGLE)


def test_gradients_that_are_not_contiguous() -> None:
    scan_checks.gradients_may_lie_anyhow(DOUBLE)


def test_what_is_no_number_shows() -> None:
    scan_checks.what_is_no_number_shows(SINGLE)


def test_it_is_differentiable_once() -> None:
    scan_checks.is_differentiable_once(SINGLE)
