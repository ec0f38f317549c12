"""The detector on long made-up losses: silent on healthy ones of every kind, quick on planted troubles of every size."""

import itertools

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_series import BATCH, NOISE, first_trouble, healthy, rows, trend

from adam.contract.config import Numeric
from adam.contract.records import StepRow
from adam.watchdog import detect
from adam.watchdog.detect import CORRUPTION, DIVERGENCE, NOT_FINITE, PAST, SPIKE, STAGNATION, WINDOW, Detector, mad

# How wide the noise of a batch is: large batches, small ones, tiny ones. Slow noise of 0.3 nats truly rises by half a nat in 150
# steps now and then, which is what the divergence rule is there to find.
WIDTHS = (0.02, 0.1, 0.3)
KINDS = [(noise, width) for noise in NOISE for width in WIDTHS if (noise, width) != ("slow", 0.3)]


def false_alarms(kind: tuple[str, float], seeds: range, steps: int) -> list[str]:
    found = (first_trouble(Detector(Numeric()), healthy(np.random.default_rng(seed), steps, *kind)) for seed in seeds)
    return [trouble.text for trouble in found if trouble is not None]


@pytest.mark.parametrize("kind", KINDS)
def test_healthy_losses_give_no_alarm(kind):
    assert false_alarms(kind, range(2), 10_000) == []


@pytest.mark.campaign
@pytest.mark.timeout(1800)
def test_ten_million_healthy_losses_give_no_alarm():
    seeds, steps = range(100, 105), 150_000
    for kind in KINDS:
        assert false_alarms(kind, seeds, steps) == [], kind
    total = len(KINDS) * len(seeds) * steps
    print(f"{total:,} rows of {len(KINDS)} kinds of noise: no alarm")
    assert total > 10_000_000


def planted(kind: tuple[str, float], seed: int, at: int, change: np.ndarray) -> tuple[list[StepRow], int]:
    """Healthy losses to which `change` is added from step `at` on."""
    losses = healthy(np.random.default_rng(seed), at + len(change), *kind)
    losses[at - 1 :][: len(change)] += change
    return list(rows(losses)), at


def delay_of(kind: tuple[str, float], seed: int, at: int, change: np.ndarray, expected: str) -> int:
    """Steps from the first wrong one to the finding; the finding's data must hold the first wrong update's."""
    series, first = planted(kind, seed, at, change)
    detector = Detector(Numeric())
    found = next((detector.trouble for row in series if detector.hear(row) or detector.trouble), None)
    assert found is not None, (kind, seed, expected)
    assert found.kind == expected, (kind, seed, found.text)
    assert found.end_sample == BATCH * found.found
    if expected == SPIKE:
        assert found.step <= first + 1 and found.before <= BATCH * first <= found.end_sample, found
    return found.found - first


# A spike must leave the noise (five times its upper tenth), and the fall of the first steps is noise too.
SPIKES = [
    (("normal", 0.02), 0.7), (("normal", 0.1), 1.0), (("normal", 0.3), 3.0), (("heavy", 0.02), 0.7), (("heavy", 0.1), 2.5),
    (("wild", 0.1), 2.0), (("slow", 0.1), 1.2), (("mixed", 0.02), 6.0), (("mixed", 0.1), 7.0),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "size"), SPIKES)
def test_every_planted_spike_is_found(kind, size):
    delays = [delay_of(kind, seed, 2000 + 37 * seed, np.full(40, size), SPIKE) for seed in range(10)]
    print(f"spike of {size} nats in {kind[0]} noise of {kind[1]}: found after {max(delays)} steps at most")
    assert max(delays) <= 15


@pytest.mark.parametrize("kind", KINDS)
def test_an_explosion_is_found_in_three_steps(kind):
    delays = [delay_of(kind, seed, 500 + 37 * seed, np.full(20, 1e4), SPIKE) for seed in range(4)]
    assert max(delays) == detect.EXTREME_ROWS - 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_slow_divergence_is_found(kind):
    rise = np.arange(600) * 5e-3
    delays = [delay_of(kind, seed, 5100, rise, DIVERGENCE) for seed in range(3)]
    print(f"divergence of 0.005 nats a step in {kind[0]} noise of {kind[1]}: found after {max(delays)} steps at most")
    assert max(delays) <= 400


def test_a_divergence_that_the_rule_can_not_see_is_no_alarm():
    """At 0.001 nats a step, the mean of 50 rises by 0.15 between its two windows."""
    series, _ = planted(("normal", 0.1), 3, 5100, np.arange(3000) * 1e-3)
    detector = Detector(Numeric())
    assert not any(detector.hear(row) or detector.trouble for row in series)


def test_divergence_is_the_window_rule_of_upstream():
    """Mean of the last 50 above the mean of -200 to -150 by 0.5, after step 5,000: to the row."""
    flat = np.full(6000, 3.0)
    for rise, at in ((0.51, 5500), (0.51, 4990), (0.49, 5500)):
        losses = flat.copy()
        losses[at:] += rise
        found = first_trouble(Detector(Numeric(spike_rise=0)), losses)
        means = [
            step
            for step in range(5001, 6001)
            if losses[step - 50 : step].mean() - losses[step - 200 : step - 150].mean() > 0.5
        ]
        assert (found and found.found) == (means[0] if means else None)


def test_one_wild_loss_is_neither_spike_nor_divergence():
    losses = healthy(np.random.default_rng(1), 7000, "normal", 0.05)
    losses[[3000, 6000, 6500]] += 500.0
    assert first_trouble(Detector(Numeric()), losses) is None


def test_not_finite_is_found_at_once_and_names_its_own_data():
    series = list(rows(trend(200)))
    for field in ("loss", "grad_norm"):
        detector = Detector(Numeric())
        for row in series[:150]:
            detector.hear(row)
        detector.hear(msgspec.structs.replace(series[150], **{field: None}))
        found = detector.trouble
        assert found is not None
        assert (found.kind, found.step, found.found) == (NOT_FINITE, 151, 151)
        assert (found.before, found.first_sample, found.end_sample) == (596, 600, 604)
        assert "not finite at step 151" in found.text


def test_an_update_that_came_out_differently_the_second_time_blames_no_data():
    series = list(rows(trend(200)))
    detector = Detector(Numeric())
    for row in series[:150]:
        detector.hear(row)
    detector.hear(msgspec.structs.replace(series[150], loss=None, sound=90))
    found = detector.trouble
    assert found is not None
    assert (found.kind, found.step, found.found, found.first_sample, found.end_sample) == (
        CORRUPTION,
        91,
        151,
        600,
        600,
    )
    assert found.text == "step 151 was computed twice and came out differently; up to step 90 all is known to be right"


def test_what_was_not_logged_is_under_suspicion_too():
    losses = np.full(400, 3.0)
    losses[300:] += 2.0
    detector = Detector(Numeric())
    found = next(detector.trouble for row in rows(losses, every=10) if detector.hear(row) or detector.trouble)
    assert found.step == 3001  # step 3000 was logged and good, 3010 was the next row
    assert (found.before, found.first_sample) == (BATCH * 2999, BATCH * 3000)


def test_stagnation_is_off_unless_asked_for_and_needs_the_whole_window():
    losses = np.concatenate([trend(2000), np.full(4000, 5.0)]) + np.random.default_rng(0).normal(0, 0.05, 6000)
    quiet = Numeric(spike_rise=0, divergence_rise=0)
    assert first_trouble(Detector(quiet), losses) is None
    found = first_trouble(Detector(msgspec.structs.replace(quiet, stagnation_steps=1500)), losses)
    assert found is not None and found.kind == STAGNATION
    assert found.found == found.step + 1500 and 1900 < found.step < 2100


def test_an_improvement_that_was_undone_is_none():
    """The best mean was reached in steps that are trained again: what counts is what is reached now."""
    quiet = Numeric(spike_rise=0, divergence_rise=0, stagnation_steps=500)
    detector = Detector(quiet)
    for row in itertools.chain(rows(np.full(300, 5.0)), rows(np.full(100, 3.0), after=300)):
        detector.hear(row)
    for row in rows(np.concatenate([np.full(400, 5.0), np.linspace(5.0, 4.0, 400)]), attempt=2, after=300):
        detector.hear(row)
    assert detector.trouble is None


@pytest.mark.parametrize("off", ["spike_rise", "divergence_rise"])
def test_each_detector_can_be_switched_off(off):
    losses = np.full(7000, 3.0)
    losses[6000:] += 5.0
    kinds = {"spike_rise": DIVERGENCE, "divergence_rise": SPIKE}
    found = first_trouble(Detector(Numeric(**{off: 0})), losses)
    assert found is not None and found.kind == kinds[off]
    assert first_trouble(Detector(Numeric(spike_rise=0, divergence_rise=0)), losses) is None


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=300))
def test_the_mad_is_the_median_of_the_distances(numbers):
    known = sorted(numbers)
    usual = known[len(known) // 2]
    assert mad(known) == pytest.approx(sorted(abs(value - usual) for value in known)[len(known) // 2])


def state(detector: Detector, rows: int) -> tuple:
    return (
        list(detector._past)[-rows:],
        detector._sorted,
        pytest.approx(detector._late),
        pytest.approx(detector._early),
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 150), st.integers(1, 400)), min_size=1, max_size=6),
    st.sampled_from(list(NOISE)),
    st.integers(0, 1000),
)
def test_steps_that_are_trained_again_count_once(parts, noise, seed):
    """After any number of attempts the detector stands where one stands that heard the rows that count."""
    rng = np.random.default_rng(seed)
    detector, counting = Detector(Numeric(divergence_from=0)), []
    for attempt, (back, length) in enumerate(parts, start=1):
        begin = max(0, (counting[-1].step if counting else 0) - back)
        counting = counting[:begin]
        losses = 3.0 + NOISE[noise](rng, length, 0.05)
        for row in rows(losses, attempt, begin):
            detector.hear(row)
            counting.append(row)
        assert detector.trouble is None
    plain = Detector(Numeric(divergence_from=0))
    for row in counting:
        plain.hear(row)
    # Whether a loss was high is judged among the losses before it, which going back changes for nobody.
    both = min(len(detector._past), len(plain._past))
    assert state(detector, both) == state(plain, both)


def test_memory_is_bounded():
    detector = Detector(Numeric())
    for row in itertools.islice(rows(healthy(np.random.default_rng(0), 5000, "heavy", 0.3)), 5000):
        detector.hear(row)
    assert len(detector._past) == PAST and len(detector._sorted) == WINDOW


def test_a_new_attempt_is_judged_anew():
    losses = np.full(400, 3.0)
    losses[300:] += 4.0
    detector = Detector(Numeric())
    for row in rows(losses):
        detector.hear(row)
    assert detector.trouble is not None and detector.trouble.attempt == 1
    for row in rows(np.full(200, 3.0), attempt=2, after=250):
        detector.hear(row)
        assert detector.trouble is None
    for row in rows(np.full(20, 9.0), attempt=2, after=450):
        detector.hear(row)
    assert detector.trouble is not None and detector.trouble.attempt == 2
