"""When what is uploaded: single cases, and histories of troubles of any kind."""

from bisect import bisect
from itertools import accumulate

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adam.contract.clock import Stamp
from adam.watchdog.upload_policy import (
    FIRST_WAIT_S,
    LEAST_S,
    LONGEST_WAIT_S,
    Rules,
    Wait,
    arrived,
    begun,
    decide,
    failed,
    in_boot_of,
    is_permanent,
    refused,
    settled,
)
from adam.watchdog.upload_words import Journal, Newest, Task, Trouble

HOUR, DAY = 3600.0, 86400.0
RULES = Rules("hf://u/r", HOUR, DAY)
KEY = "key"
PASSING, PERMANENT = Trouble("away", 500), Trouble("no", 403)


def at(seconds: float) -> Stamp:
    return Stamp(1e9 + seconds, "boot", seconds)


def name(step: int) -> str:
    return f"step-{step:08d}-a01"


def ask(journal: Journal, now: float, step: int = 1, *, final: bool = False, key: str = KEY, rules: Rules = RULES):
    return decide(rules, journal, Newest(name(step), final), key, at(now))


def sent(journal: Journal, now: float, step: int = 1, *, weights: bool = True, state: bool = True) -> Journal:
    return arrived(begun(journal, at(now)), Task(name(step), weights, state), at(now))


def test_the_first_checkpoint_goes_up_whole_at_once() -> None:
    assert decide(RULES, Journal(), None, KEY, at(0)) == Wait()
    assert ask(Journal(), 0) == Task(name(1), True, True)
    assert ask(Journal(), 0, rules=msgspec.structs.replace(RULES, state_every_s=0)) == Task(name(1), True, False)


def test_weights_hourly_and_states_daily() -> None:
    journal = sent(Journal(), 0)
    assert ask(journal, 100, step=1) == Wait()
    assert ask(journal, HOUR - 1, step=2) == Wait(1.0)
    assert ask(journal, HOUR, step=2) == Task(name(2), True, False)
    journal = sent(journal, HOUR, 2, state=False)
    assert ask(journal, HOUR + 5, step=2) == Wait(DAY - HOUR - 5)  # the state of this very checkpoint may become due
    assert ask(journal, DAY, step=30) == Task(name(30), True, True)


def test_the_last_checkpoint_does_not_wait_for_its_hour() -> None:
    journal = sent(Journal(), 0)
    assert ask(journal, LEAST_S, step=2, final=True) == Task(name(2), True, True)
    assert not settled(RULES, journal, Newest(name(2), True), KEY, at(LEAST_S))
    journal = sent(journal, 100, 2)
    assert settled(RULES, journal, Newest(name(2), True), KEY, at(100))
    assert settled(RULES, failed(RULES, Journal(), PERMANENT, KEY, at(0)), Newest(name(2), True), KEY, at(100))


@pytest.mark.parametrize("status", [401, 403, 404, 413])
def test_what_only_people_can_mend_is_left_until_they_have(status: int) -> None:
    journal = failed(RULES, begun(Journal(), at(0)), Trouble("no", status), KEY, at(0))
    assert refused(journal, KEY)
    assert ask(journal, 1000 * DAY, step=9) == Wait()
    assert ask(journal, LEAST_S, step=9, key="another token") == Task(name(9), True, True)


@pytest.mark.parametrize("status", [400, 402, 405, 422])
def test_a_refusal_that_may_be_the_hubs_own_is_believed_when_it_comes_three_times_in_a_row(status: int) -> None:
    trouble, journal = Trouble("bad request", status), Journal()
    for other in (Trouble("away", 500), trouble, trouble, Trouble("bad", 451), trouble, trouble):
        journal = failed(RULES, journal, other, KEY, at(0))
        assert not refused(journal, KEY) and isinstance(ask(journal, DAY), Task)
    assert refused(failed(RULES, journal, trouble, KEY, at(0)), KEY)
    assert not refused(failed(RULES, journal, trouble, "another token", at(0)), "another token")
    assert not refused(failed(RULES, sent(journal, 0), trouble, KEY, at(0)), KEY)


@pytest.mark.parametrize("status", [0, 408, 409, 412, 425, 429, 500, 502, 503, 504])
def test_what_passes_is_tried_again_by_itself(status: int) -> None:
    assert not is_permanent(Trouble("away", status))
    journal = failed(RULES, begun(Journal(), at(0)), Trouble("away", status), KEY, at(0))
    wait = ask(journal, 0, step=9)
    assert isinstance(wait, Wait) and wait.seconds is not None and FIRST_WAIT_S / 2 <= wait.seconds <= FIRST_WAIT_S
    assert ask(journal, FIRST_WAIT_S, step=9) == Task(name(9), True, True)  # the newest, whatever was tried


def test_the_wait_doubles_up_to_an_hour_and_begins_anew_after_success() -> None:
    journal, waits = Journal(), []
    for number in range(12):
        journal = failed(RULES, journal, PASSING, KEY, at(number))
        waits.append(journal.failure.wait_s)
    for number, wait in enumerate(waits):
        full = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**number)
        assert full / 2 <= wait <= full
    journal = failed(RULES, sent(journal, 100), PASSING, KEY, at(200))
    assert journal.failure.wait_s <= FIRST_WAIT_S


def test_the_hub_is_believed_when_it_says_how_long() -> None:
    journal = failed(RULES, Journal(), Trouble("many", 429, retry_after=9000), KEY, at(0))
    assert ask(journal, 8999) == Wait(1.0)
    assert isinstance(ask(journal, 9000), Task)


def test_an_uploader_that_dies_in_each_upload_does_not_try_without_a_pause() -> None:
    journal = begun(Journal(), at(100))
    assert ask(journal, 101) == Wait(LEAST_S - 1)


def test_a_clock_that_is_put_back_a_day_delays_nothing() -> None:
    journal = sent(Journal(), 0)
    assert decide(RULES, journal, Newest(name(2)), KEY, Stamp(1e9 - DAY, "boot", HOUR)) == Task(name(2), True, False)


def test_a_clock_that_was_put_back_a_day_behind_a_reboot_delays_nothing_by_more_than_it_had_to_wait_anyway() -> None:
    """Only the wall clock tells how long ago things of another boot were: it says "not yet", for a day."""

    def booted(seconds: float) -> Stamp:
        return Stamp(1e9 - DAY + seconds, "next boot", seconds)

    journal = failed(RULES, begun(sent(Journal(), 0), at(HOUR)), PASSING, KEY, at(HOUR))
    assert decide(RULES, journal, Newest(name(2)), KEY, booted(HOUR)) == Wait(HOUR)
    here = in_boot_of(journal, booted(10))
    assert decide(RULES, here, Newest(name(2)), KEY, booted(HOUR + 9)) == Wait(1.0)
    assert decide(RULES, here, Newest(name(2)), KEY, booted(HOUR + 10)) == Task(name(2), True, False)
    assert in_boot_of(here, booted(HOUR)) == here


TROUBLES = st.sampled_from([None, None, PASSING, PERMANENT, Trouble("many", 429, 600.0), Trouble("reset")])
RATES = st.sampled_from([Rules("w", 60.0, 1.0), Rules("w", 60.0, 0.0), RULES])


@settings(max_examples=60, deadline=None)
@given(
    rules=RATES,
    troubles=st.lists(TROUBLES, min_size=1, max_size=60),
    steps=st.lists(st.floats(1, 4000), min_size=1, max_size=20),
    mends=st.sets(st.integers(0, 60)),
    final=st.booleans(),
)
def test_any_history(rules: Rules, troubles: list[Trouble | None], steps: list[float], mends: set[int], final: bool):
    """Checkpoints at any pace, troubles of any kind, people who change the token now and then."""
    journal, now, number, key = Journal(), 0.0, 0, "0"
    made = list(accumulate(steps))
    tries: list[float] = []
    delivered: list[tuple[str, str]] = []
    while number < len(troubles) and now < 3 * DAY:
        step = bisect(made, now) + 1
        newest = Newest(name(step), final)
        decision = decide(rules, journal, newest, key, at(now))
        if isinstance(decision, Wait):
            if refused(journal, key):
                assert decision == Wait()
                key = f"{key}x" if number in mends else key
            now += min(max(decision.seconds, 0.01), 1800.0) if decision.seconds else 1800.0  # floats round
            continue
        assert decision.checkpoint == newest.checkpoint
        tries.append(now)
        journal = begun(journal, at(now))
        trouble, number = troubles[number], number + 1
        now += 1.0
        if trouble is None:
            delivered += [("weights", decision.checkpoint)] * decision.weights
            delivered += [("state", decision.checkpoint)] * decision.state
            journal = arrived(journal, decision, at(now))
        else:
            journal = failed(rules, journal, trouble, key, at(now))
    assert len(delivered) == len(set(delivered))  # nothing twice
    for begin, first in enumerate(tries):  # the Hub's limit, in every hour
        assert sum(1 for other in tries[begin:] if other < first + HOUR) <= 128
    # Whatever has been, once the Hub is well and the token right the newest arrives within the longest wait.
    last = Newest(name(10_000), True)
    late = now + LONGEST_WAIT_S
    decision = decide(rules, journal, last, "right", at(late))
    assert isinstance(decision, Task) and decision.weights
    assert settled(rules, arrived(journal, decision, at(late)), last, "right", at(late))
