"""The policy of snapshots and checkpoints: what is committed, when, and where an attempt begins from."""

import pytest
from msgspec.structs import replace
from policy_bench import SETTINGS, Bench, kept

from adam.contract.records import Desired, Resume, SnapshotSeen
from adam.contract.states import Phase, RunState
from adam.watchdog.policy import restored
from adam.watchdog.policy_words import AskCommit, AskSettle, Launch, Stage
from adam.watchdog.retention import Kept


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_durable_snapshots_are_committed_and_failures_retried(bench):
    bench.run_to_training()
    bench.pulse(5, snapshots=1, durable=1).tick()
    assert bench.of(AskCommit) == [AskCommit(resumed="", durable_only=True)]
    bench.pulse(6, snapshots=9, durable=1).tick()  # others in memory are nobody's business
    assert len(bench.of(AskCommit)) == 1
    bench.see(keeper_idle=False).pulse(7, durable=2).tick()
    assert len(bench.of(AskCommit)) == 1
    bench.see(keeper_idle=True, commit_trouble="no room").pulse(8, durable=2).tick()
    assert len(bench.of(AskCommit)) == 2 and "training goes on" in bench.decision.notes[0]
    for step in range(10, 24):
        bench.pulse(step, durable=2).tick(1)
    assert len(bench.of(AskCommit)) == 2
    bench.pulse(24, durable=2).tick(2)
    assert len(bench.of(AskCommit)) == 3


SNAPSHOT = SnapshotSeen("step-00000120-a01", 120, "/dev/shm/adam-x/slot-1")


def crash_and_settle(bench: Bench, **answer: object) -> AskSettle:
    """The trainer is killed; the keeper answers what it is asked then."""
    bench.ended(number=9).tick()
    bench.tick()
    bench.settle(*kept(100), **answer)
    return bench.of(AskSettle)[-1]


def test_a_killed_trainer_goes_on_from_memory_and_that_is_committed_behind_it(bench):
    bench.run_to_training(*kept(100), step=100)
    ask = crash_and_settle(bench, snapshot=SNAPSHOT)
    assert not ask.commit
    bench.tick(2)
    plan = bench.of(Launch)[-1].plan
    assert plan.resume == Resume(SNAPSHOT.name, 120, SNAPSHOT.slot)
    assert not bench.of(AskCommit)
    bench.started().pulse(120, Phase.LOADING).tick()
    assert not bench.of(AskCommit), "a trainer that dies every minute must not wear the disk"
    bench.tick(4 * 3600)
    assert bench.of(AskCommit) == [AskCommit(resumed=SNAPSHOT.name, durable_only=False)]
    bench.tick()
    assert len(bench.of(AskCommit)) == 1
    bench.ended(number=9).tick()
    bench.tick()
    assert bench.of(AskSettle)[-1].resumed == SNAPSHOT.name


@pytest.mark.parametrize("why", ["stopped", "done"])
def test_a_run_that_ends_leaves_nothing_in_memory_only(bench, why):
    bench.run_to_training(*kept(100), step=100)
    snapshot = replace(SNAPSHOT, step=SETTINGS.steps) if why == "done" else SNAPSHOT
    if why == "stopped":
        crash_and_settle(bench, snapshot=snapshot)
        bench.see(desired=Desired(running=False))
    else:
        crash_and_settle(bench, snapshot=snapshot)
    for _ in range(3):
        bench.tick()
    assert bench.of(AskSettle)[-1].commit and bench.memory.stage == Stage.SETTLING
    bench.settle(*kept(100, snapshot.step))
    bench.tick()
    assert bench.memory.stage == Stage.DONE


def test_a_run_that_starts_again_puts_memory_on_disk_first(bench):
    bench.tick()
    assert bench.of(AskSettle)[-1].commit


def test_the_trainer_is_asked_for_a_checkpoint_once_an_interval():
    bench = Bench(replace(SETTINGS, checkpoint_minutes=1.0))
    bench.run_to_training()
    asked = set()
    for step in range(1, 721):
        bench.pulse(step).tick(0.25)
        asked.add(bench.decision.control.due)
    assert len(asked) == 3 + 1 and min(asked) == 0  # three minutes
    bench.see(checkpoints=kept(10_000))
    before = bench.decision.control.due
    for _ in range(300):
        bench.pulse(721).tick(0.25)
    assert bench.decision.control.due == before  # nothing that is not on disk


def test_a_run_by_steps_asks_for_nothing_by_time():
    bench = Bench(replace(SETTINGS, checkpoint_minutes=1.0, by_steps_only=True))
    bench.run_to_training()
    for step in range(400):
        bench.pulse(step).tick(0.25)
    assert bench.decision.control.due == 0


def test_a_slow_disk_is_reported_and_delays_nothing_else():
    bench = Bench(replace(SETTINGS, checkpoint_minutes=1.0))
    bench.run_to_training()
    bench.pulse(5, durable=1).tick()
    bench.see(keeper_idle=False)
    for step in range(6, 300):
        bench.pulse(step, durable=2).tick(0.25)
    assert "the disk is slow" in bench.decision.notes[0]
    assert bench.state == RunState.TRAINING and len(bench.of(AskCommit)) == 1


def test_a_save_request_is_passed_on_until_a_checkpoint_answers_it() -> None:
    bench = Bench(desired=Desired(saves=3), saves_done=2)
    bench.run_to_training()
    assert bench.decision.control.saves == 3
    bench.see(saves_done=3).tick()
    assert bench.decision.control.saves == 0


def test_the_trainer_is_told_which_of_its_snapshots_are_checkpoints() -> None:
    """Those of other attempts say nothing of its own."""
    bench = Bench()
    bench.run_to_training(*kept(100), step=100)
    assert bench.memory.plan.attempt == 1 and bench.decision.control.committed == 100
    bench.see(checkpoints=(*kept(100, 120), Kept("step-00000900-a07", 900, 7, True))).tick()
    assert bench.decision.control.committed == 120


def test_reboots_are_reckoned_on_all_the_time_that_was_watched(bench) -> None:
    """The interval follows from it; a boot's clock begins anew, and days that went well must not be lost with it."""
    bench.run_to_training()
    bench.pulse(3).tick(3 * 86400.0)
    began, watched = bench.memory.began, bench.now
    bench.memory = restored(bench.memory, 20.0, same_boot=False)
    assert (bench.memory.reboots, bench.memory.began) == (1, 20.0)
    assert bench.memory.watched_s == watched - began > 2.9 * 86400.0
    bench.memory = restored(bench.memory, 500.0, same_boot=True)
    assert bench.memory.watched_s == watched - began


def test_a_save_during_a_pause_is_still_a_pause() -> None:
    bench = Bench()
    bench.run_to_training()
    bench.see(desired=Desired(pauses=("human",))).pulse(3, Phase.PAUSED).tick()
    bench.pulse(3, Phase.SAVING).tick()
    assert bench.state == RunState.PAUSED
    bench.pulse(3, Phase.PAUSED).tick()
    bench.see(desired=Desired()).pulse(3).tick()
    assert [len(bench.told("paused")), len(bench.told("resumed"))] == [1, 1]


def test_what_a_dead_watchdog_asked_its_keeper_for_is_asked_again(bench) -> None:
    bench.run_to_training()
    bench.pulse(10, durable=1).tick()
    assert len(bench.of(AskCommit)) == 1
    bench.memory = restored(bench.memory, bench.now, same_boot=True)  # and the keeper died with it
    bench.pulse(11, durable=1).tick()
    assert len(bench.of(AskCommit)) == 2
    for step in range(12, 30):
        bench.pulse(step, durable=1).tick()
    assert len(bench.of(AskCommit)) <= 3, "once, not for ever"


def test_a_snapshot_in_memory_is_on_disk_before_the_forge_takes_the_lease(bench) -> None:
    bench.see(data_ready=False)
    for _ in range(40):
        bench.tick()
        if bench.of(AskSettle):
            break
    bench.settle(snapshot=SnapshotSeen("step-00000900-a01", 900, "/shm/slot-0"))
    for _ in range(40):
        bench.tick()
    assert bench.of(AskSettle)[-1].commit and not bench.of(Launch)
    bench.settle(*kept(900))
    for _ in range(40):
        bench.tick()
    assert bench.of(Launch)[-1].plan.program == "forge"
