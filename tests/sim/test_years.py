"""Years of a run: what the policy promises holds through whatever befalls the machine, and the simulation finds planted bugs."""

import math

import pytest
from msgspec.structs import replace
from run import words
from sim_box import World
from sim_checks import Broken
from simulation import Summary, simulate

from adam.contract.states import FailureClass, Phase
from adam.watchdog import (
    policy,
    policy_failures,
    policy_gpu,
    policy_idle,
    policy_numeric,
    policy_pulse,
    policy_running,
    upload_policy,
)
from adam.watchdog.policy_turn import Turn

ROUGH = World(days=20.0, faults_a_day=6.0)
YEAR = 365.0


def years(number: float, seed: int) -> Summary:
    """At one fault a day: what is promised of it."""
    summary = simulate(World(days=YEAR * number), seed)
    print(words(summary))
    assert summary.finals["finished"] == 1 and sum(summary.faults.values()) > 0.9 * YEAR * number
    assert summary.hangs > 10 * number and summary.uploads > 5000 * number
    assert summary.goodput >= 0.999
    return summary


@pytest.mark.timeout(600)
def test_three_years_without_a_human():
    years(3, seed=0)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(3))
def test_twenty_years_without_a_human(seed):
    years(20, seed)


def test_a_seed_replays_a_run():
    world = replace_days(ROUGH, 10.0)
    first, second = simulate(world, 7), simulate(world, 7)
    assert (first.days, first.decisions, first.restarts) == (second.days, second.decisions, second.restarts)


def replace_days(world: World, days: float) -> World:
    return World(days, world.faults_a_day, world.box, world.mix)


def only(days: float, faults_a_day: float, **mix: float) -> World:
    """A world in which nothing else happens."""
    assert set(mix) <= set(ROUGH.mix)
    return World(days, faults_a_day, mix={name: mix.get(name, 0.0) for name in ROUGH.mix})


CRASHING = only(20.0, 4.0, crash=3, kill=1, watchdog=1)
SLOW_READS = only(10.0, 8.0, slow_reads=1, memory_lost=1)
BAD_NUMBERS = only(10.0, 4.0, poison=1)
HOT = only(5.0, 2.0, heat=1, blind=1)
GONE = only(8.0, 3.0, gpu_gone=2, kill=1, blind=1, watchdog=1)
REBOOTING = World(8.0, 3.0, mix=GONE.mix, reboots_per_day=2)
FAR = only(20.0, 2.0, hub_away=3, hub_refuses=1, watchdog=1)


def red(*worlds: World) -> str:
    """What the simulation says of the policy as it is patched now; empty: nothing."""
    for world in worlds or (ROUGH,):
        for seed in range(2):
            try:
                simulate(world, seed)
            except Broken as error:
                return str(error)
    return ""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("world", [ROUGH, CRASHING, SLOW_READS, BAD_NUMBERS, HOT, FAR, GONE, REBOOTING])
def test_nothing_is_found_where_nothing_is_planted(world):
    assert red(world) == ""


def test_finds_a_back_off_that_never_resets(monkeypatch):
    monkeypatch.setattr(policy_failures, "progressed", lambda turn: False)
    assert "not reset" in red()


def test_finds_a_back_off_that_never_grows(monkeypatch):
    monkeypatch.setattr(Turn, "backoff_s", lambda turn, failures: 0.5)
    assert "a crash loop" in red()


def test_finds_a_crash_loop_that_nobody_is_told_of(monkeypatch):
    monkeypatch.setattr(policy_failures, "tell_stuck", lambda *of: None)
    assert "a crash loop that nobody is told of" in red(CRASHING)


def test_finds_that_people_are_told_of_what_passes(monkeypatch):
    monkeypatch.setattr(policy_failures, "is_stuck", lambda turn, failures, detail: True)
    assert "stuck (" in red(only(10.0, 2.0, bad_host=1))


def test_an_older_checkpoint_ends_some_crash_loops():
    summary = simulate(CRASHING, 0)
    assert summary.again["an older checkpoint was tried"] > 0 and 0 < summary.stuck < summary.faults["crash"]


def test_finds_that_what_passes_is_given_up(monkeypatch):
    patient = policy_failures.DETERMINISTIC
    monkeypatch.setattr(policy_failures, "DETERMINISTIC", {*patient, FailureClass.HOST})
    assert "is given up" in red(only(10.0, 2.0, bad_host=1))


@pytest.mark.parametrize("phase", [Phase.PAUSED, Phase.LEARNING])
def test_finds_a_quiet_phase_that_counts_as_a_hang(monkeypatch, phase):
    real = policy_running.left_s
    monkeypatch.setattr(
        policy_running,
        "left_s",
        lambda settings, past, letter: -1.0 if past.phase == phase else real(settings, past, letter),
    )
    assert "a false hang" in red()


def test_finds_a_slow_read_that_counts_as_a_hang(monkeypatch):
    real = policy_running.listen
    monkeypatch.setattr(
        policy_running,
        "listen",
        lambda past, pulse, now, **more: replace(
            real(past, pulse, now, **more), unborn_s=past.unborn_s + min(now - past.tick, policy_pulse.LONGEST_TICK_S)
        ),
    )
    assert "a false hang" in red(SLOW_READS)


def test_finds_a_hang_that_is_never_noticed(monkeypatch):
    monkeypatch.setattr(policy_running, "left_s", lambda settings, past, letter: math.inf)
    assert "no step for" in red()


def test_finds_that_no_checkpoint_is_ever_asked_for(monkeypatch):
    monkeypatch.setattr(policy_running, "commit_if_due", lambda turn: None)
    assert "no checkpoint for" in red()


def test_finds_an_upload_that_blocks(monkeypatch):
    real = policy_running.commit_if_due
    monkeypatch.setattr(policy_running, "commit_if_due", lambda turn: None if turn.seen.upload_pending else real(turn))
    assert "no checkpoint for" in red(FAR)


def test_finds_a_hub_that_is_given_up(monkeypatch):
    monkeypatch.setattr(upload_policy, "LONGEST_WAIT_S", math.inf)
    assert "no upload for" in red(FAR)


def test_finds_a_finished_run_that_waits_for_nothing(monkeypatch):
    monkeypatch.setattr(upload_policy, "settled", lambda *seen: False)
    assert "a finished run has not ended" in red(replace_days(FAR, 1.0))


def test_finds_that_the_hub_is_asked_all_the_time(monkeypatch):
    monkeypatch.setattr(upload_policy, "LEAST_S", 0.0)
    monkeypatch.setattr(upload_policy, "LONGEST_WAIT_S", 1.0)
    assert "uploads in an hour" in red(FAR)


def test_finds_that_the_last_checkpoint_stays_at_home(monkeypatch):
    real = policy_idle.close

    def close(turn):
        turn.seen = replace(turn.seen, upload_pending=False)
        real(turn)

    monkeypatch.setattr(policy_idle, "close", close)
    assert "was never uploaded" in red(replace_days(FAR, 1.0))


def test_finds_a_start_from_what_is_not_verified(monkeypatch):
    real = policy_idle.resume_of

    def oldest(settled):
        """Whatever lies there first, as if it were right."""
        first = tuple(replace(kept, verified=True) for kept in settled.checkpoints[:1])
        return real(replace(settled, snapshot=None, checkpoints=first))

    monkeypatch.setattr(policy_idle, "resume_of", oldest)
    assert "which is not verified" in red(only(10.0, 6.0, reboot=1))


def test_finds_that_memory_is_not_begun_from(monkeypatch):
    real = policy_idle.resume_of
    monkeypatch.setattr(policy_idle, "resume_of", lambda settled: real(replace(settled, snapshot=None)))
    assert "are lost with a process" in red()


def test_finds_that_training_goes_on_from_wrong_numbers(monkeypatch):
    monkeypatch.setattr(policy_numeric, "limit", lambda turn, found, tried: found.found)
    assert "which is spoilt since step" in red(BAD_NUMBERS)


def test_finds_that_heat_is_ignored(monkeypatch):
    monkeypatch.setattr(policy, "feel", lambda turn: None)
    assert "training on a GPU of" in red(HOT)


def test_finds_a_stop_that_is_forgotten_when_the_watchdog_dies(monkeypatch):
    monkeypatch.setattr(
        Turn, "wanted", property(lambda turn: turn.seen.desired.running or turn.memory.stop_asked is None)
    )
    assert "a stop is forgotten" in red(only(10.0, 6.0, down=1))


def test_finds_that_a_lost_gpu_is_tried_all_the_time(monkeypatch):
    monkeypatch.setattr(policy_gpu, "next_try", lambda turn, wait: 0.0)
    assert "in vain" in red(GONE)


def test_finds_a_pace_that_never_slows_down(monkeypatch):
    monkeypatch.setattr(policy_gpu, "LONGEST_PACE_S", 60.0)
    assert "attempts in vain within an hour" in red(GONE)


def test_finds_that_a_gpu_which_is_back_is_not_seen(monkeypatch):
    monkeypatch.setattr(policy_gpu, "is_well", lambda seen: False)
    monkeypatch.setattr(policy_gpu, "PACE_S", 2e4)
    monkeypatch.setattr(policy_gpu, "LONGEST_PACE_S", 2e4)
    assert "no step for" in red(GONE)


def test_finds_reboots_beyond_their_bounds(monkeypatch):
    monkeypatch.setattr(policy_gpu, "wait_s", lambda rules, ages, uptime_s: 0.0)
    assert "a reboot beyond the bounds" in red(REBOOTING)


def test_finds_a_reboot_that_does_not_wait_for_the_disk(monkeypatch):
    monkeypatch.setattr(policy_idle, "ends_here", lambda turn, snapshot: False)
    monkeypatch.setattr(policy_gpu, "is_safe", lambda turn: True)
    assert "is in memory only" in red(REBOOTING)


def test_reboots_that_do_not_help_are_an_end():
    world = World(8.0, 6.0, mix=only(8.0, 6.0, gpu_gone=1).mix, reboots_per_day=1)
    assert simulate(world, 0).finals["failed"]
