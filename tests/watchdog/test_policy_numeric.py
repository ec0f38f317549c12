"""The policy of numeric trouble: ended, gone back from, left out, counted, and given up with a report."""

import itertools
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from policy_bench import SETTINGS, Bench, kept

from adam.contract.clock import Stamp
from adam.contract.records import Desired, SnapshotSeen
from adam.contract.states import RunState
from adam.watchdog.detect import CORRUPTION, DIVERGENCE, NOT_FINITE, SPIKE, STAGNATION, Trouble
from adam.watchdog.policy import restored
from adam.watchdog.policy_numeric import merged
from adam.watchdog.policy_words import AskCommit, AskSettle, Changes, Launch, Signal


@pytest.fixture
def bench() -> Bench:
    return Bench(replace(SETTINGS, healthy_steps=50))


def trouble(bench: Bench, step: int, kind: str = SPIKE, **fields: object) -> Trouble:
    """Four samples an update; found nine steps after it began, but for a number that is not finite."""
    found = step if kind == NOT_FINITE else step + 9
    values = {
        "kind": kind, "attempt": bench.of(Launch)[-1].plan.attempt, "step": step, "found": found, "first_sample": 4 * (step - 1),
        "end_sample": 4 * found, "before": 4 * (step - 2), "loss": 9.5, "usual": 2.5,
    }  # fmt: skip
    return Trouble(**values | fields)


def falls(bench: Bench, step: int, *checkpoints, kind: str = SPIKE, **fields: object) -> AskSettle:
    """Trains from the newest checkpoint to trouble at `step`; the question that the keeper is asked then."""
    bench.run_to_training(*checkpoints, step=checkpoints[-1].step if checkpoints else 0)
    bench.see(checkpoints=checkpoints)
    found = trouble(bench, step, kind, **fields)
    bench.pulse(found.found).see(trouble=found).tick()
    if kind == NOT_FINITE:
        bench.ended(7)
    else:
        assert bench.of(Signal)[-1] == Signal(11, 1, signal.SIGKILL, True)
        bench.ended(number=signal.SIGKILL)
    bench.tick()
    bench.tick(6)
    return bench.of(AskSettle)[-1]


def goes_on(bench: Bench, *checkpoints, **answer: object):
    """The keeper has answered; the next plan."""
    bench.settle(*checkpoints, **answer)
    for _ in range(2000):
        bench.tick(0.5)
        if bench.memory.plan.token > bench.seen.exit.token:
            break
    return bench.of(Launch)[-1].plan


def test_a_spike_ends_the_attempt_and_goes_back_to_a_healthy_checkpoint(bench):
    ask = falls(bench, 200, *kept(100, 140, 160))
    assert ask.beyond == 149 and "spike from step 200 to 209: loss 9.5, 2.5 before" in ask.reason
    assert not ask.commit  # a snapshot in memory that is old enough is as good
    told = bench.told("numeric")[0]
    assert (told.facts["step"], told.facts["found"], told.facts["loss"]) == (200, 209, 9.5)
    assert bench.told("crashed")[0].facts["failure"] == "numeric"
    plan = goes_on(bench, *kept(100, 140))
    # Data of the bad updates, and of the one before them.
    assert (plan.resume.step, plan.skip, plan.lr_factor) == (140, ((792, 836),), 1.0)
    assert "without the data at 792 to 835" in plan.why


def test_a_trainer_ends_by_itself_at_a_number_that_is_not_finite(bench):
    bench.run_to_training(*kept(100), step=100)
    bench.see(checkpoints=kept(100)).see(trouble=trouble(bench, 170, NOT_FINITE, loss=None)).pulse(169).tick()
    for _ in range(9):
        bench.pulse(169).tick(1)
    assert not bench.of(Signal)
    bench.pulse(169).tick(1)
    assert bench.of(Signal)[0].number == signal.SIGKILL  # ten seconds were enough
    bench.ended(number=signal.SIGKILL).tick()
    assert bench.memory.failures.kind == "numeric" and bench.memory.beyond == 119


def test_exit_7_goes_back_at_its_first_time(bench):
    ask = falls(bench, 170, *kept(100, 120), kind=NOT_FINITE, loss=None)
    assert ask.beyond == 119 and not bench.of(Signal)
    assert "the last word" in bench.memory.failures.text  # the trainer's own
    assert goes_on(bench, *kept(100)).skip == ((672, 680),)


def test_without_a_healthy_checkpoint_the_newest_before_the_trouble_does(bench):
    ask = falls(bench, 130, *kept(100, 120))
    assert ask.beyond == 129
    # It may be done again from just before it: the update before was not seen again, so its data stay.
    assert goes_on(bench, *kept(100, 120)).skip == ((516, 556),)


def test_without_any_checkpoint_it_begins_again(bench):
    ask = falls(bench, 20)
    assert ask.beyond == 19
    plan = goes_on(bench, in_quarantine=1)
    assert plan.resume is None and plan.skip == ((76, 116),)


def test_a_checkpoint_that_was_there_and_does_not_verify_is_no_reason_to_begin_again(bench):
    falls(bench, 200, *kept(100))
    bench.settle(in_quarantine=1)
    for _ in range(5):
        bench.tick()
    assert bench.state == RunState.FAILED and "no checkpoint verifies" in bench.decision.reason


def test_a_snapshot_in_memory_that_is_old_enough_is_used(bench):
    falls(bench, 200, *kept(100))
    plan = goes_on(bench, *kept(100), snapshot=SnapshotSeen("step-00000140-a01", 140, "/dev/shm/slot-1"))
    assert plan.resume.slot == "/dev/shm/slot-1"


def test_nothing_is_saved_while_it_is_being_ended(bench):
    bench.run_to_training(*kept(100), step=100)
    bench.see(trouble=trouble(bench, 170)).pulse(179, durable=1).tick()
    assert not bench.of(AskCommit)
    assert bench.state == RunState.RESTARTING and "being ended" in bench.decision.reason


def test_skips_and_rates_stay_in_force(bench):
    bench.settings = replace(bench.settings, lr_factor=0.5)
    falls(bench, 200, *kept(100))
    assert goes_on(bench, *kept(100)).lr_factor == 0.5
    bench.see(trouble=None)
    bench.run_to_training(*kept(100), step=100).pulse(400).tick()
    bench.ended(number=signal.SIGKILL).tick()
    plan = goes_on(bench, *kept(100, 300))
    assert (plan.skip, plan.lr_factor, plan.resume.step) == (((792, 836),), 0.5, 300)
    assert bench.memory.best == 400  # only the attempt that goes back begins to count anew
    falls(bench, 600, *kept(500))
    plan = goes_on(bench, *kept(500))
    assert (plan.skip, plan.lr_factor) == (((792, 836), (2392, 2436)), 0.25)
    assert len(bench.memory.rollbacks) == 1  # another place: counted anew


def test_a_watchdog_that_lost_its_memory_keeps_the_changes_of_the_last_plan():
    bench = Bench(changes=Changes(skip=((8, 12),), lr_factor=0.5), highest_token=4, highest_attempt=4)
    bench.run_to_training(*kept(100))
    plan = bench.of(Launch)[-1].plan
    assert (plan.skip, plan.lr_factor) == (((8, 12),), 0.5)


def test_the_same_trouble_goes_back_further_and_then_fails_with_a_report(bench):
    assert falls(bench, 200, *kept(50, 100, 140)).beyond == 149
    goes_on(bench, *kept(50, 100, 140))
    bench.see(trouble=None)
    assert falls(bench, 205, *kept(50, 100, 140)).beyond == 104  # twice as far
    goes_on(bench, *kept(50, 100))
    bench.see(trouble=None)
    falls(bench, 210, *kept(50))
    bench.settle(*kept(50))
    bench.tick()
    assert bench.state == RunState.FAILED
    assert bench.decision.reason == (
        "numeric trouble 3 times at the same place: "
        "spike from step 200 to 209: loss 9.5, 2.5 before; then from step 149 or before without the data at 792 to 835; "
        "spike from step 205 to 214: loss 9.5, 2.5 before; then from step 104 or before without the data at 812 to 855; "
        "spike from step 210 to 219: loss 9.5, 2.5 before"
    )
    bench.see(trouble=None, desired=Desired(stamp=Stamp(9.0, "boot", 9.0)))  # people have mended it
    bench.run_to_training(*kept(50))
    assert not bench.memory.rollbacks and bench.of(Launch)[-1].plan.skip == ((792, 856),)


def test_the_way_back_counts_as_progress(bench):
    """Failures while the steps before the trouble are done again are not failures without progress."""
    falls(bench, 900, *kept(100))
    goes_on(bench, *kept(100))
    bench.see(trouble=None)
    for step in range(150, 800, 50):
        bench.run_to_training(*kept(100), step=100).pulse(step).tick()
        bench.ended(1).tick()
        bench.tick(400)
        assert bench.memory.failures.in_a_row == 1, step


def test_a_stop_that_was_asked_for_does_not_save_what_went_wrong(bench):
    bench.run_to_training(*kept(100), step=100).see(checkpoints=kept(100))
    bench.see(desired=Desired(running=False)).pulse(200).tick()
    bench.see(trouble=trouble(bench, 191)).ended(10).tick()
    bench.tick()
    assert bench.of(AskSettle)[-1].beyond == 140
    bench.settle(*kept(100))
    bench.tick()
    assert bench.state == RunState.STOPPED


@pytest.mark.parametrize("attempt", [0, 7])
def test_trouble_of_another_attempt_means_nothing(bench, attempt):
    bench.run_to_training(*kept(100), step=100)
    bench.see(trouble=trouble(bench, 170, attempt=attempt)).pulse(180).tick()
    assert not bench.of(Signal) and bench.state == RunState.TRAINING


def test_off_it_is_a_failure_like_any_other(bench):
    bench.settings = replace(bench.settings, rollbacks=0)
    bench.run_to_training(*kept(100), step=100).see(checkpoints=kept(100))
    bench.see(trouble=trouble(bench, 170)).pulse(180).tick()
    assert not bench.of(Signal)
    bench.ended(7).tick()
    assert bench.memory.failures.kind == "numeric" and bench.memory.beyond == -1


def test_a_watchdog_that_dies_in_between_goes_on_with_it(bench):
    bench.run_to_training(*kept(100), step=100).see(checkpoints=kept(100))
    bench.see(trouble=trouble(bench, 200)).pulse(209).tick()
    bench.memory = restored(bench.memory, bench.now, same_boot=True)
    bench.ended(number=signal.SIGKILL).tick()
    bench.memory = restored(bench.memory, bench.now, same_boot=True)
    bench.tick(1)
    bench.tick(6)
    assert bench.of(AskSettle)[-1].beyond == 149


def test_divergence_is_answered_likewise(bench):
    assert falls(bench, 900, *kept(700), kind=DIVERGENCE).beyond == 849


def test_stagnation_saves_and_ends_the_run(bench):
    bench.run_to_training(*kept(100), step=100)
    bench.see(trouble=trouble(bench, 200, STAGNATION, found=900)).pulse(900).tick()
    bench.pulse(901).tick()
    assert bench.of(Signal) == [Signal(10, 1, signal.SIGTERM)] and bench.decision.control.stop == 1
    bench.ended(10).tick()
    bench.tick()
    assert bench.of(AskSettle)[-1].commit
    bench.settle(*kept(100, 900))
    bench.tick()
    assert bench.state == RunState.FAILED and "no better in 700 steps" in bench.decision.reason
    assert not bench.told("crashed")


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60))))
def test_merged_ranges_hold_the_same_positions(ranges):
    plain = merged(tuple(ranges))
    held = {position for start, end in ranges for position in range(start, end)}
    assert {position for start, end in plain for position in range(start, end)} == held
    assert all(before[1] < after[0] for before, after in itertools.pairwise(plain))


def test_an_attempt_that_nobody_saw_start_and_that_left_wrong_numbers_is_gone_back_from(bench):
    """The watchdog was dead from the launch to the death of the launcher; found by the random worlds of test_policy_always."""
    bench.run_to_training(*kept(100, 140), step=140)
    bench.ended(number=signal.SIGKILL)
    bench.tick()
    bench.tick(6)
    plan = goes_on(bench, *kept(100, 140))
    bench.see(
        checkpoints=kept(100, 140, 170), trouble=trouble(bench, 170, NOT_FINITE, loss=None), program_state="EXITED"
    )
    for _ in range(60):
        bench.tick(0.5)
        if bench.of(AskSettle)[-1].beyond >= 0:
            break
    assert bench.memory.changes and bench.memory.changes.skip and bench.of(AskSettle)[-1].beyond < 170
    assert (
        len(bench.told("numeric")) == 1
        and bench.told("crashed")[-1].facts["failure"] == "numeric"
        and plan.attempt == 2
    )


def corrupted(bench: Bench, sound: int, found: int) -> None:
    """The trainer computed step `found` twice and ended; up to `sound` all was right."""
    at = 4 * (found - 1)
    bench.pulse(found - 1, sound=sound).tick()
    wrong = trouble(
        bench, sound + 1, CORRUPTION, found=found, first_sample=at, end_sample=at, before=at, loss=None, usual=None
    )
    bench.see(trouble=wrong).ended(7).tick()
    bench.tick()
    bench.tick(6)


def test_a_chip_that_computes_wrong_is_gone_back_from_and_no_data_are_left_out(bench):
    bench.run_to_training(*kept(100, 150, 200), step=200)
    bench.see(checkpoints=kept(100, 150, 200))
    corrupted(bench, 160, 240)
    assert bench.of(AskSettle)[-1].beyond == 160 and len(bench.told("numeric")) == 1
    plan = goes_on(bench, *kept(100, 150))
    assert (plan.skip, plan.resume.step, plan.sound) == ((), 150, 150)


def test_where_no_checkpoint_is_known_to_be_right_the_oldest_is_taken(bench):
    bench.run_to_training(*kept(100, 150), step=150)
    bench.see(checkpoints=kept(100, 150))
    corrupted(bench, 20, 190)
    assert bench.of(AskSettle)[-1].beyond == 100 and not bench.memory.from_start


def test_how_far_all_is_right_is_kept_from_attempt_to_attempt(bench):
    bench.run_to_training(*kept(100), step=100)
    bench.pulse(130, sound=120).tick()
    bench.ended(number=9).tick()
    bench.tick()
    bench.tick(6)
    assert goes_on(bench, *kept(100), snapshot=SnapshotSeen("step-00000128-a01", 128, "/s")).sound == 120


def test_a_chip_that_computes_wrong_again_and_again_ends_the_run(bench):
    bench.run_to_training(*kept(100), step=100)
    bench.see(checkpoints=kept(100))
    for number in range(3):
        corrupted(bench, 100 + 1000 * number, 500 + 1000 * number)
        if number < 2:
            goes_on(bench, *kept(100))
            bench.started().pulse(100).tick()
    assert bench.memory.verdict.startswith("the chip computed wrong 3 times: step 500 was computed twice")


@pytest.mark.parametrize(
    ("kinds", "verdict"),
    [
        ([CORRUPTION, NOT_FINITE, CORRUPTION, NOT_FINITE, CORRUPTION], "the chip computed wrong 3 times: "),
        ([NOT_FINITE, CORRUPTION, NOT_FINITE, CORRUPTION, NOT_FINITE], "numeric trouble 3 times at the same place: "),
    ],
)
def test_one_trouble_is_not_forgotten_for_another_nor_counted_with_it(bench, kinds, verdict):
    bench.run_to_training(*kept(100), step=100)
    bench.see(checkpoints=kept(100))
    for number, kind in enumerate(kinds):
        if kind == CORRUPTION:
            corrupted(bench, 160, 240)
        else:
            bench.pulse(239).see(trouble=trouble(bench, 240, kind)).ended(7).tick()
            bench.tick()
            bench.tick(6)
        if number < len(kinds) - 1:
            assert not bench.memory.verdict
            goes_on(bench, *kept(100))
            bench.started().pulse(100).tick()
    assert bench.memory.verdict.startswith(verdict)
