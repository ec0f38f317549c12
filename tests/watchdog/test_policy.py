"""The policy, decision by decision: pure, so that each case is a few lines."""

import errno
import signal

import pytest
from msgspec.structs import replace
from policy_bench import SETTINGS, Bench, kept

from adam.contract.clock import Stamp
from adam.contract.config import Alerts
from adam.contract.records import Desired
from adam.contract.shared import Pulse
from adam.contract.states import FailureClass, Phase, RunState
from adam.contract.steplog import MOST_WAITING
from adam.watchdog.policy import restored
from adam.watchdog.policy_gaps import add_gap, p99
from adam.watchdog.policy_words import (
    AskSettle,
    Collect,
    Launch,
    LeaseSeen,
    Shutdown,
    Signal,
    Stage,
    Sweep,
)
from adam.watchdog.retention import Kept


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_forge_comes_first_and_then_the_trainer(bench):
    bench.see(data_ready=False).tick()
    bench.settle()
    bench.tick()
    assert bench.of(Launch)[-1].plan.program == "forge" and bench.state == RunState.FORGING
    bench.started().tick()
    bench.ended(0).see(data_ready=True).tick()
    bench.settle()
    bench.tick()
    plan = bench.of(Launch)[-1].plan
    assert (plan.program, plan.attempt, plan.token, plan.resume) == ("trainer", 2, 2, None)


def test_a_forge_without_data_is_a_data_failure(bench):
    bench.see(data_ready=False).tick()
    bench.settle()
    bench.tick()
    bench.started().tick()
    bench.ended(0).tick()
    bench.settle()
    bench.tick()
    assert bench.state == RunState.FAILED and "not ready" in bench.decision.reason


def test_resumes_from_the_newest_verified(bench):
    bench.tick()
    bench.settle(*kept(10, 20), *kept(30, verified=False))
    bench.tick()
    assert bench.of(Launch)[-1].plan.resume.step == 20


def test_finishes_when_all_is_trained(bench):
    bench.run_to_training()
    bench.pulse(1000).ended(0).tick()
    bench.settle(*kept(1000))
    bench.tick()
    assert bench.state == RunState.FINISHED and bench.of(Shutdown)
    assert bench.decision.reason == "1000 steps trained"


def test_a_finished_run_ends_behind_its_last_upload(bench):
    bench.run_to_training()
    bench.see(upload_pending=True).pulse(1000).ended(0).tick()
    bench.settle(*kept(1000))
    bench.tick()
    bench.tick()
    assert bench.state == RunState.FINISHED and not bench.of(Shutdown)
    assert "is being uploaded" in " ".join(bench.decision.notes)
    bench.see(upload_pending=False).tick()
    assert len(bench.of(Shutdown)) == 1 and not bench.decision.notes
    bench.tick()
    assert len(bench.of(Shutdown)) == 1


def test_nobody_has_to_wait_for_an_upload(bench):
    bench.run_to_training()
    bench.see(upload_pending=True).pulse(1000).ended(0).tick()
    bench.settle(*kept(1000))
    bench.tick()
    bench.see(desired=Desired(running=False, stamp=Stamp(5.0, "boot", 5.0))).tick()
    assert bench.of(Shutdown)


def test_more_steps_wake_a_finished_run(bench):
    test_finishes_when_all_is_trained(bench)
    bench.see(desired=Desired(stamp=Stamp(5.0, "boot", 5.0))).tick()
    bench.settle(*kept(1000))
    bench.tick()
    assert bench.state == RunState.FINISHED  # nothing to do: finished again at once
    bench.settings = replace(SETTINGS, steps=2000)
    bench.see(desired=Desired(stamp=Stamp(6.0, "boot", 6.0))).run_to_training(*kept(1000), step=1000)


def test_ending_early_with_exit_0_is_a_failure(bench):
    bench.run_to_training()
    bench.pulse(500).ended(0).tick()
    bench.settle(*kept(500))
    bench.tick()
    assert "ended at step 500 of 1000" in bench.memory.failures.text


@pytest.mark.parametrize("code", [2, 3, 11])
def test_a_wrong_configuration_fails_at_once(bench, code):
    bench.run_to_training()
    bench.ended(code).tick()
    bench.settle()
    bench.tick()
    assert bench.state == RunState.FAILED and "the last word" in bench.decision.reason


def test_bad_data_at_the_start_fail_at_once(bench):
    bench.tick()
    bench.settle()
    bench.tick()
    bench.started().tick()
    bench.ended(4).tick()
    bench.settle()
    bench.tick()
    assert bench.state == RunState.FAILED


def crash(
    bench: Bench, step: int, *checkpoints: Kept, code: int | None = None, number: int | None = None, **fields
) -> None:
    bench.run_to_training(*checkpoints, step=step).ended(code, number, **fields).tick()


@pytest.mark.parametrize("code", [1, 2, 4, 77])
def test_where_the_program_is_to_blame_the_events_have_its_last_lines(bench, code):
    tail = ("Traceback (most recent call last):", "  File x", "ValueError: y")
    for _ in range(3):
        if not bench.memory.verdict:
            crash(bench, 25, code=code, tail=tail)
    bench.tick(6)
    bench.settle()
    bench.tick()
    assert (
        bench.state == RunState.FAILED
        and "\n" not in bench.decision.reason
        and "ValueError: y" in bench.decision.reason
    )
    assert [told.facts["log"] for told in (*bench.told("crashed"), *bench.told("failed"))].count("\n".join(tail)) >= 2
    assert bench.told("failed")[0].facts["log"] == "\n".join(tail)


def test_where_the_machine_is_to_blame_the_log_says_nothing(bench):
    crash(bench, 25, code=6)
    crash(bench, 25, number=signal.SIGKILL)
    assert not any("log" in told.facts for told in bench.told("crashed"))
    bench.see(desired=Desired(running=False)).tick()
    bench.settle()
    bench.tick()
    assert bench.told("stopped") and "log" not in bench.told("stopped")[0].facts


def test_the_same_failure_takes_an_older_checkpoint_once(bench):
    for _ in range(3):
        crash(bench, 25, *kept(10, 20), code=1)
    assert bench.told("plan_changed")
    bench.tick(6)
    ask = bench.of(AskSettle)[-1]
    assert ask.quarantine == "step-00000020-a01" and "the last word" in ask.reason
    crash(bench, 25, *kept(10), code=1)
    bench.tick(6)
    bench.settle(*kept(10))
    bench.tick()
    assert bench.state == RunState.FAILED and "also from an older checkpoint" in bench.decision.reason


def test_progress_makes_failures_new(bench):
    for step in range(10, 200, 10):
        crash(bench, step, code=1)
        assert bench.memory.failures.in_a_row == 1 and bench.memory.not_before - bench.now <= 1.0


def test_deterministic_failures_that_differ_end_too(bench):
    crash(bench, 100, code=1)
    with pytest.raises(AssertionError, match="times without progress"):
        for step in range(50, 100):
            crash(bench, step, code=1)
    assert bench.memory.failures.in_a_row == 9


def test_kills_are_tried_for_ever_with_a_capped_wait(bench):
    for _ in range(60):
        crash(bench, 25, number=signal.SIGKILL)
        assert bench.memory.not_before - bench.now <= SETTINGS.backoff_cap_seconds
    assert not bench.memory.verdict and bench.memory.not_before - bench.now > 100


def hang(bench: Bench, step: int, *checkpoints: Kept) -> None:
    bench.run_to_training(*checkpoints, step=step)
    while not bench.memory.hang:
        bench.tick()
    bench.ended(number=signal.SIGKILL).tick()


@pytest.mark.parametrize("how", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, "hang"])
def test_what_a_program_brings_upon_itself_for_ever_is_told_behind_an_older_checkpoint(bench, how):
    def fail(*checkpoints: Kept) -> None:
        hang(bench, 25, *checkpoints) if how == "hang" else crash(bench, 25, *checkpoints, number=how)

    for _ in range(3):
        assert not bench.told("plan_changed")
        fail(*kept(10, 20))
    (changed,) = bench.told("plan_changed")
    assert changed.facts["checkpoint"] == "step-00000020-a01" and not bench.told("stuck")
    for _ in range(20):
        fail(*kept(10))
    (stuck,) = bench.told("stuck")
    assert stuck.facts["times"] == 4 and stuck.facts["step"] == 25 and "also from an older checkpoint" in stuck.text
    assert len(bench.told("plan_changed")) == 1 and not bench.memory.verdict
    assert SETTINGS.backoff_cap_seconds / 2 <= bench.memory.not_before - bench.now <= SETTINGS.backoff_cap_seconds
    bench.tick()
    assert any("23 times at the same step" in note for note in bench.decision.notes)
    bench.run_to_training(*kept(10)).pulse(26).tick()
    assert not bench.decision.notes
    assert "stuck" in Alerts().kinds


def test_a_run_that_is_stuck_is_told_anew_each_day(bench):
    for _ in range(3):
        crash(bench, 25, number=signal.SIGSEGV)
    assert len(bench.told("stuck")) == 1
    for _ in range(200):
        bench.tick(600)
        crash(bench, 25, number=signal.SIGSEGV)
    assert 1 + 200 * 600 // 86400 <= len(bench.told("stuck")) <= 3
    told = bench.memory.failures.told
    assert told is not None and restored(bench.memory, 5.0, same_boot=False).failures.told == 5.0
    assert restored(bench.memory, 5.0, same_boot=True).failures.told == told


def test_a_loop_at_another_step_is_another(bench):
    for _ in range(3):
        crash(bench, 25, number=signal.SIGSEGV)
    for _ in range(3):
        crash(bench, 30, number=signal.SIGSEGV)
    assert [told.facts["step"] for told in bench.told("stuck")] == [25, 30]


def test_a_machine_that_kills_whatever_starts_is_waited_for(bench):
    for number in (signal.SIGKILL, signal.SIGTERM):
        for _ in range(12):
            crash(bench, 25, *kept(10, 20), number=number)
    for _ in range(12):
        while bench.memory.stage != Stage.STARTING:
            bench.tick()
            if bench.memory.stage == Stage.SETTLING:
                bench.settle(*kept(10, 20))
        bench.started().pulse(25, Phase.LOADING).tick()
        bench.ended(number=signal.SIGSEGV).tick()
    crash(bench, 25, *kept(10, 20), number=signal.SIGSEGV)  # the first of its kind
    assert not bench.told("plan_changed") and not bench.told("stuck")


def test_what_the_machine_did_does_not_count_where_code_fails(bench):
    for _ in range(12):
        crash(bench, 25, number=signal.SIGKILL)
    crash(bench, 25, code=1)
    crash(bench, 26, code=1)
    assert not bench.memory.verdict


def test_what_follows_something_doubtful_shares_nothing_with_it(bench):
    crash(bench, 25, number=signal.SIGKILL)
    crash(bench, 26, number=signal.SIGKILL)  # it had come further than the one before
    assert not bench.of(Launch)[-1].plan.fresh
    bench.run_to_training(step=27)
    assert not bench.of(Launch)[-1].plan.fresh
    bench.ended(number=signal.SIGKILL).tick()
    crash(bench, 27, number=signal.SIGKILL)  # and it no further
    bench.run_to_training(step=28)
    assert bench.of(Launch)[-1].plan.fresh
    while not bench.memory.hang:
        bench.tick()
    bench.ended(number=signal.SIGKILL).tick()
    bench.run_to_training(step=28)
    assert bench.of(Launch)[-1].plan.fresh


def test_a_launcher_that_waits_and_does_not_take_its_plan_up_is_killed(bench):
    crash(bench, 25, number=signal.SIGKILL)
    lease = replace(bench.seen.lease, launcher_pid=0, waiting_pid=77, waiting_ticks=5)
    bench.see(lease=lease, program_state="RUNNING")
    while bench.memory.stage != Stage.STARTING:
        bench.tick()
        if bench.memory.stage == Stage.SETTLING:
            bench.settle()
    began = bench.now
    while not (signals := [action for action in bench.of(Signal) if action.pid == 77]):
        bench.tick()
    assert 5 < bench.now - began < 7
    assert signals == [Signal(77, 5, signal.SIGKILL)] and bench.memory.stage != Stage.STARTING
    bench.see(lease=replace(lease, waiting_pid=0), program_state="EXITED")
    launches = len(bench.of(Launch))
    for _ in range(40):
        bench.tick()
        if bench.memory.stage == Stage.SETTLING:
            bench.settle()
    assert len(bench.of(Launch)) > launches


def test_the_next_trainer_knows_how_often_trainers_die(bench):
    for step in (20, 40, 60):
        crash(bench, step, number=signal.SIGKILL)
        assert bool(bench.of(Launch)[-1].plan.death_interval_s) == (
            step == 60
        )  # the first two were started before two had died
    bench.run_to_training(step=60)
    died = bench.memory.deaths
    assert len(died) == 3 and died[0] < died[1] < died[2]
    launched = bench.of(Launch)[-1].plan.death_interval_s
    assert 0 < launched == pytest.approx((died[2] - died[0]) / 2, abs=0.1)
    assert restored(bench.memory, 5.0, same_boot=False).deaths == ()


def test_a_full_disk_is_waited_out(bench):
    for _ in range(30):
        crash(bench, 25, code=6)
    assert not bench.memory.verdict


def test_rows_that_wait_for_the_disk_are_told_and_end_nothing(bench):
    bench.run_to_training()
    bench.pulse(5, unlogged=3, log_error=errno.ENOSPC).tick()
    assert any("No space left on device; 3 rows wait in memory" in note for note in bench.decision.notes)
    bench.pulse(6, unlogged=4, log_error=errno.ENOSPC).tick()
    assert len(bench.told("disk_full")) == 1 and bench.state == RunState.TRAINING
    bench.pulse(6, Phase.LOADING).tick()  # the next attempt does not know of them yet
    assert not bench.told("disk_freed")
    bench.pulse(7).tick()
    bench.pulse(8).tick()
    assert len(bench.told("disk_freed")) == 1 and not bench.decision.notes and not bench.told("crashed")


def test_a_log_that_can_not_wait_any_more_is_a_pause(bench):
    bench.run_to_training()
    bench.pulse(5, Phase.PAUSED, unlogged=MOST_WAITING, log_error=errno.ENOSPC).tick()
    assert bench.decision.control.pause and (bench.state, bench.decision.reason) == (RunState.PAUSED, "paused by disk")
    bench.pulse(5).tick()
    assert not bench.decision.control.pause and bench.state == RunState.TRAINING


def test_an_end_that_could_not_be_written_is_the_disk(bench):
    """The launcher stands on its report, is ended at last, and nobody is told that it was killed by somebody."""
    bench.run_to_training()
    bench.see(lease=replace(bench.seen.lease, child_alive=False))
    for _ in range(60):
        bench.tick()
    assert [action.number for action in bench.of(Signal)] == [signal.SIGKILL]
    bench.see(lease=replace(bench.seen.lease, launcher_alive=False)).tick()
    (told,) = bench.told("crashed")
    assert told.facts["failure"] == FailureClass.DISK and "how could not be written" in told.text


def test_out_of_memory_is_not_a_kill(bench):
    crash(bench, 25, number=signal.SIGKILL, oom_killed=True)
    assert bench.memory.failures.kind == "memory"


def test_a_checkpoint_error_has_everything_verified(bench):
    crash(bench, 25, *kept(10, 20), code=5)
    bench.tick(6)
    assert bench.of(AskSettle)[-1].verify


def test_somebody_else_stopped_it(bench):
    crash(bench, 25, code=10)
    assert bench.memory.failures.kind == "host"
    bench.run_to_training()


def test_no_checkpoint_verifies(bench):
    bench.tick()
    bench.settle(in_quarantine=2)
    bench.tick()
    assert bench.state == RunState.FAILED and "checkpoints/quarantine" in bench.decision.reason


def test_without_room_for_what_was_left_it_waits(bench):
    bench.tick()
    for _ in range(20):
        bench.settle(trouble="no room")
        bench.tick(6)
    assert not bench.of(Launch) and bench.decision.notes == ("no room",)
    bench.settle()
    bench.tick()
    assert bench.of(Launch)


def test_stops_when_asked(bench):
    bench.run_to_training()
    bench.see(desired=Desired(running=False)).tick()
    assert bench.decision.control.stop == 1 and bench.of(Signal) == [Signal(10, 1, signal.SIGTERM)]
    bench.tick(19)
    assert len(bench.of(Signal)) == 1
    bench.pulse(5, Phase.SAVING).tick(2)
    assert bench.of(Signal)[-1] == Signal(11, 1, signal.SIGKILL, True)  # stop_seconds are over
    bench.ended(number=signal.SIGKILL).tick()
    bench.settle(*kept(5))
    bench.tick()
    assert bench.state == RunState.STOPPED and bench.of(Shutdown)
    bench.see(desired=Desired()).run_to_training(*kept(5))  # and goes on when it is wanted again


def test_a_stop_is_not_called_off(bench):
    bench.run_to_training()
    bench.see(desired=Desired(running=False)).tick()
    bench.see(desired=Desired())
    for second in range(21):
        bench.pulse(second).tick(1)
    assert bench.of(Signal)[-1].number == signal.SIGKILL  # it was asked, and did not answer in stop_seconds
    bench.ended(number=signal.SIGKILL).tick()
    assert not bench.memory.failures.in_a_row
    bench.run_to_training()


def test_a_keeper_that_hangs_does_not_keep_down_from_ending(bench):
    bench.see(desired=Desired(running=False))
    for _ in range(30):
        bench.tick(1)
    assert bench.state == RunState.STOPPED


def test_a_hang_is_ended_by_blows_of_growing_force(bench):
    bench.run_to_training()
    for _ in range(7):
        bench.pulse(0, moved=False).tick()
    assert not bench.told("hung")
    bench.tick()
    assert bench.told("hung")[0].facts["quiet_s"] == pytest.approx(2.0)
    assert [action.number for action in bench.of(Signal)] == [signal.SIGUSR1]
    bench.tick(1.0)
    bench.tick(3.0)
    assert [action.number for action in bench.of(Signal)] == [signal.SIGUSR1, signal.SIGTERM, signal.SIGKILL]
    assert bench.of(Signal)[-1].group
    for _ in range(12):
        bench.tick(1)
    assert bench.of(Sweep) and "does not die" in bench.decision.notes[0]
    bench.ended(number=signal.SIGKILL).tick()
    assert "hang" in bench.memory.failures.signature


def test_a_sign_of_life_calls_the_blows_off(bench):
    bench.run_to_training()
    for _ in range(8):
        bench.tick()
    assert bench.told("hung")
    bench.pulse(1).tick()
    for _ in range(4):
        bench.pulse(1).tick()
    assert [action.number for action in bench.of(Signal)] == [signal.SIGUSR1]


def test_a_machine_that_slept_is_no_hang(bench):
    bench.run_to_training()
    bench.tick(7200)
    bench.pulse(1).tick()
    assert not bench.told("hung")


@pytest.mark.parametrize("phase", [Phase.SAVING, Phase.CHECKING])
def test_a_long_save_is_no_hang_but_an_endless_one_is(bench, phase):
    bench.run_to_training()
    bench.pulse(1, phase).tick()
    for _ in range(59):
        bench.tick(1)
    assert not bench.told("hung")
    bench.tick(1)
    assert bench.told("hung")


def test_a_pause_is_no_hang(bench):
    bench.run_to_training()
    bench.see(desired=Desired(pauses=("human", "heat"))).tick()
    assert bench.decision.control.pause == 1
    for _ in range(100):
        bench.pulse(0, Phase.PAUSED).tick(1)
    assert bench.state == RunState.PAUSED and bench.decision.reason == "paused by human, heat"
    assert not bench.told("hung") and len(bench.told("paused")) == 1
    bench.see(desired=Desired()).pulse(0).tick()
    assert bench.told("resumed")


def test_a_trainer_that_never_begins_is_a_hang(bench):
    bench.tick()
    bench.settle()
    bench.tick()
    bench.started()
    for second in range(35):
        bench.pulse(0, Phase.IMPORTING).tick(1)  # it beats, but gets nowhere
        assert bool(bench.told("hung")) == (second >= 29)


def test_a_stopped_process_hangs_in_any_phase(bench):
    bench.tick()
    bench.settle()
    bench.tick()
    bench.started().pulse(0, Phase.LOADING).tick()
    for _ in range(8):
        bench.tick()
    assert not bench.told("hung")
    bench.see(child_letter="T").tick()
    assert bench.told("hung")[0].facts["process_state"] == "T"


def test_slow_steps_teach_patience(bench):
    bench.run_to_training()
    for _ in range(30):
        for _ in range(5):
            bench.pulse(0, moved=False).tick(0.3)
        bench.pulse(0).tick(0.1)  # a micro-step takes 1.6 s
    for _ in range(8):
        bench.tick(0.5)
    assert not bench.told("hung")  # 4 s of quiet, above hang_seconds
    for _ in range(16):
        bench.tick(0.5)
    assert bench.told("hung")


def test_p99_is_of_the_gaps():
    gaps: tuple[int, ...] = ()
    for _ in range(990):
        gaps = add_gap(gaps, 0.3)
    for _ in range(10):
        gaps = add_gap(gaps, 60.0)
    assert 0.3 <= p99(gaps) <= 0.43
    for _ in range(5000):
        gaps = add_gap(gaps, 8.0)
    assert 8.0 <= p99(gaps) < 12 and sum(gaps) < 4100


def test_a_living_trainer_is_adopted_without_memory(bench):
    lease = LeaseSeen(
        program="trainer", attempt=4, token=9, launcher_pid=1, launcher_ticks=1, child_pid=2, child_ticks=2,
        launcher_alive=True, child_alive=True,
    )  # fmt: skip
    bench.see(lease=lease, pulse=Pulse(token=9, step=50, phase=Phase.TRAINING, progress=1)).tick()
    assert bench.memory.stage == Stage.RUNNING and not bench.of(Launch) and not bench.of(AskSettle)
    assert bench.decision.control.token == 9
    bench.see(exit=None, lease=replace(lease, launcher_alive=False, child_alive=False)).tick()
    bench.settle(*kept(40))
    for _ in range(5):
        bench.tick()
    plan = bench.of(Launch)[-1].plan
    assert (plan.attempt, plan.token) == (5, 10)


def test_a_stranger_with_the_lease_is_waited_for_and_swept_at_last(bench):
    lease = LeaseSeen(program="trainer", attempt=4, token=9, launcher_pid=1, launcher_ticks=1, held=True)
    bench.see(lease=lease)
    bench.memory = replace(bench.memory, since=bench.now)
    for _ in range(9):
        bench.tick(1)
    assert bench.memory.stage == Stage.IDLE and not bench.of(Sweep)
    for _ in range(9):
        bench.tick(1)
    assert bench.of(Sweep)[0] == Sweep(9) and not bench.of(Launch)


def test_a_deaf_supervisord_is_asked_again(bench):
    bench.tick()
    bench.settle()
    bench.tick()
    bench.see(launch_error="supervisord did not answer")
    for _ in range(10):
        bench.tick(1)
    launches = bench.of(Launch)
    assert 3 <= len(launches) <= 6 and len({action.plan.token for action in launches}) == 1
    assert bench.decision.notes == ("supervisord did not answer",) and not bench.told("stuck")
    for _ in range(600):
        bench.tick(1)
    (stuck,) = bench.told("stuck")
    assert 60 <= stuck.facts["seconds"] < 63 and "supervisord did not answer" in stuck.text
    bench.started().see(launch_error="").tick()
    assert bench.memory.stage == Stage.RUNNING


def test_a_launcher_that_ends_before_the_lease_is_a_failure(bench):
    bench.tick()
    bench.settle()
    bench.tick()
    bench.see(program_state="EXITED").tick(6)
    assert "launcher" in bench.memory.failures.signature


def test_tokens_grow_beyond_whatever_was_seen(bench):
    bench.see(highest_token=70, highest_attempt=7).tick()
    bench.settle()
    bench.tick()
    plan = bench.of(Launch)[0].plan
    assert (plan.token, plan.attempt) == (71, 8)


def test_a_new_boot_forgets_the_times_of_the_old(bench):
    bench.run_to_training()
    memory = restored(bench.memory, 5.0, same_boot=False)
    assert memory.since == memory.not_before == 5.0 and memory.best == bench.memory.best
    bench.memory, bench.now = memory, 5.0
    bench.see(lease=replace(bench.seen.lease, launcher_alive=False, child_alive=False)).tick()
    assert "without a report" in bench.memory.failures.text


def test_the_blows_wait_for_the_bundle_but_not_for_ever(bench):
    bench.run_to_training()
    for _ in range(8):
        bench.tick()
    (collect,) = bench.of(Collect)
    assert collect.name == "hang-1-0" and bench.told("hung")[0].facts["bundle"] == "logs/hang-1-0"
    assert bench.actions.index(collect) < bench.actions.index(bench.of(Signal)[0])
    bench.see(collecting=True)
    for _ in range(23):
        bench.tick()
    assert len(bench.of(Signal)) == 1  # 5.75 s, and it is still being made
    bench.tick()
    assert [action.number for action in bench.of(Signal)] == [signal.SIGUSR1, signal.SIGTERM, signal.SIGKILL]


def test_nothing_is_started_or_ended_while_nobody_can_read_what_is_wanted(bench):
    bench.see(wish_known=False).tick()
    bench.settle(*kept(10))
    for _ in range(20):
        bench.tick()
    assert not bench.of(Launch) and not bench.of(Shutdown) and bench.state == RunState.WAITING
    bench.see(wish_known=True).tick()
    bench.started().tick()
    bench.see(wish_known=False).tick()
    assert bench.memory.stage == Stage.RUNNING and not bench.of(Signal)


def test_a_final_state_is_not_left_by_a_wish_that_can_not_be_read(bench):
    bench.see(desired=Desired(running=False)).tick()
    bench.settle(*kept(10))
    bench.tick()
    assert bench.state == RunState.STOPPED
    bench.see(desired=Desired(), wish_known=False).tick()
    assert bench.state == RunState.STOPPED
    bench.see(wish_known=True).tick()
    assert bench.memory.stage == Stage.SETTLING
