"""A GPU that is gone: said at once, waited for, no attempt burnt, and a bounded number of reboots where people want them."""

import itertools

import pytest
from msgspec.structs import replace
from policy_bench import SETTINGS, Bench, kept

from adam.contract.reboots import DAY_S, RebootRules
from adam.contract.records import Desired, Gpu, SnapshotSeen
from adam.contract.states import Exit, Phase, RunState
from adam.watchdog.policy import restored
from adam.watchdog.policy_gpu import LONGEST_PACE_S, PACE_S, SURE_S, trouble
from adam.watchdog.policy_words import AskSettle, Launch, Observation, Reboot, RebootSeen, Stage
from adam.watchdog.probe_words import Xid

WELL = {"sensors": "ok", "gpus": (Gpu(0, recovery=""),), "gpu_fault": "", "lost": ()}
LOST = {"sensors": "unknown", "gpus": (), "gpu_fault": "lost", "lost": (0,), "xids": (Xid(0, 79),)}
MISMATCH = {"sensors": "unknown", "gpus": (), "gpu_fault": "mismatch"}
SILENT = {"sensors": "unknown", "gpus": (), "gpu_fault": ""}
ASKING = replace(SETTINGS, reboot=RebootRules(per_day=2, uptime_s=600.0), reboot_after_s=900.0)
NO_GPU = int(Exit.GPU)


def training(settings=SETTINGS, **seen) -> Bench:
    return Bench(settings, trained_on="cuda H200", **{**WELL, **seen}).run_to_training(*kept(100), step=100)


@pytest.fixture
def bench() -> Bench:
    return training()


def starts(bench: Bench) -> int:
    return len(bench.of(Launch))


def die(bench: Bench, **how) -> Bench:
    """The trainer ends, and the keeper settles."""
    bench.ended(**how).tick()
    return settle(bench)


def settle(bench: Bench, **fields) -> Bench:
    while bench.memory.stage == Stage.SETTLING:
        bench.settle(*kept(100), **fields)
        bench.tick()
    return bench


def wait(bench: Bench, seconds: float, step: float = 10.0) -> Bench:
    for _ in range(int(seconds / step)):
        bench.tick(step)
        settle(bench)
        if bench.memory.stage == Stage.STARTING:
            break
    return bench


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (WELL, ""),
        (SILENT, ""),
        ({**WELL, "gpus": (Gpu(0),)}, ""),
        ({"sensors": "none"}, ""),
        ({**WELL, "lost": (1,)}, ""),
        ({**WELL, "gpus": (Gpu(0, recovery="drain and reset"),)}, ""),
        ({**WELL, "gpus": (Gpu(0, recovery="reset"), Gpu(1, recovery=""))}, ""),
        (LOST, "GPU 0 fell off the bus (Xid 79): reboot"),
        ({**LOST, "lost": (0, 2)}, "GPUs 0, 2 fell off the bus (Xid 79): reboot"),
        ({"sensors": "unknown", "gpu_fault": "lost"}, "every GPU fell off the bus: reboot"),
        (MISMATCH, "the NVIDIA driver was changed under the run"),
        ({"sensors": "unknown", "gpu_fault": "reset"}, "the GPUs need a reset"),
        ({**WELL, "gpus": ()}, "NVML sees no GPU any more"),
        ({**WELL, "gpus": (Gpu(0, recovery="reboot"),)}, "GPU 0 can't be used before the machine is rebooted"),
        (
            {**WELL, "gpus": (Gpu(0, recovery="reset"),), "lost": (1,), "xids": (Xid(1, 79), Xid(0, 48))},
            "GPU 0 needs a reset: nvidia-smi --gpu-reset -i 0 as root, or reboot; GPU 1 fell off the bus (Xid 79): reboot",
        ),
    ],
)
def test_what_the_sensors_say(seen, words):
    found = trouble(Observation(**seen))
    assert found.startswith(words) and bool(found) == bool(words)


@pytest.mark.parametrize("how", [{"code": 1}, {"number": 9}, {"number": 11}, {"code": NO_GPU}])
@pytest.mark.parametrize("sick", [LOST, MISMATCH])
def test_nothing_is_tried_while_the_sensors_say_that_no_gpu_is_left(bench, how, sick):
    die(bench.see(**sick), **how)
    assert bench.state == RunState.WAITING and bench.decision.reason == trouble(bench.seen) + "; training waits"
    wait(bench, SURE_S - 60)
    assert starts(bench) == 1 and len(bench.told("gpu")) == 1 and bench.state == RunState.WAITING
    assert not bench.memory.failures.in_a_row and bench.told("crashed")[0].facts["failure"] == "gpu"
    bench.see(**WELL).tick()
    assert starts(bench) == 2 and len(bench.told("gpu")) == 2
    bench.started().pulse(100, Phase.LOADING).tick()
    bench.pulse(100).tick()
    bench.pulse(101).tick()
    assert bench.state == RunState.TRAINING and bench.memory.gpu is None


def test_a_sensor_that_is_wrong_does_not_hold_training_for_ever(bench):
    wait(die(bench.see(**MISMATCH), number=9), 2 * SURE_S)
    assert starts(bench) == 2
    bench.started().pulse(100, Phase.LOADING).tick()
    for step in range(200):
        bench.pulse(100 + step).tick(1)
    assert bench.state == RunState.TRAINING


def test_a_living_trainer_is_left_alone(bench):
    for seen in (LOST, MISMATCH, SILENT, {**WELL, "lost": (1,)}):
        bench.see(**seen)
        for step in range(100):
            assert not bench.pulse(200 + step).tick(60) or bench.state == RunState.TRAINING
    assert not bench.told("gpu") and not bench.told("crashed") and bench.state == RunState.TRAINING


@pytest.mark.parametrize("seen", [SILENT, {**WELL, "gpus": (Gpu(0),), "lost": (1,)}, {"sensors": "none", "gpus": ()}])
def test_sensors_that_cannot_tell_restart_and_hold_nothing(bench, seen):
    wait(die(bench.see(**seen), number=9), 60, step=0.25)
    assert starts(bench) == 2 and bench.memory.gpu is None
    assert bench.memory.failures.in_a_row == 1


@pytest.mark.parametrize("seen", [SILENT, WELL, {"sensors": "none", "gpus": ()}])
def test_a_trainer_that_finds_no_gpu_is_tried_again_at_a_slow_pace(bench, seen):
    bench.see(**seen)
    times = []
    for _ in range(12):
        die(bench, code=NO_GPU)
        assert bench.state == RunState.WAITING and "training waits, and tries again" in bench.decision.reason
        ended = bench.now
        wait(bench, 2 * LONGEST_PACE_S, step=1.0)
        times.append(bench.now - ended)
        bench.started().see(pulse=None).tick()
    assert times[0] == pytest.approx(PACE_S, abs=2) and times[-1] == pytest.approx(LONGEST_PACE_S, abs=2)
    assert all(later >= before - 2 for before, later in itertools.pairwise(times))
    assert not bench.memory.failures.in_a_row and not bench.told("failed") and not bench.memory.verdict


def test_sensors_that_see_a_gpu_again_end_the_wait(bench):
    bench.see(**SILENT)
    for _ in range(8):
        die(bench, code=NO_GPU)
        wait(bench, 2 * LONGEST_PACE_S)
        bench.started().see(pulse=None).tick()
    die(bench, code=NO_GPU)
    wait(bench, 300)
    count = starts(bench)
    assert bench.state == RunState.WAITING
    bench.see(**WELL).tick()
    assert starts(bench) == count + 1


def test_what_flutters_is_not_tried_each_time(bench):
    die(bench.see(**LOST), code=NO_GPU)
    count, began = starts(bench), bench.now
    for number in range(600):
        bench.see(**(WELL if number % 2 else LOST)).tick(1)
        settle(bench)
        if bench.memory.stage == Stage.STARTING:
            bench.started().see(pulse=None, **LOST).tick()
            die(bench, code=NO_GPU)
    assert starts(bench) - count <= 1 + (bench.now - began) / PACE_S


def test_a_run_on_a_cpu_has_nothing_to_do_with_gpus():
    for device, trained_on in (("auto", "cpu avx2"), ("auto", ""), ("cpu", "cuda H200")):
        bench = training(replace(SETTINGS, device=device)).see(trained_on=trained_on, **LOST)
        wait(die(bench, number=9), 60, step=0.25)
        assert starts(bench) == 2 and bench.memory.gpu is None


def test_people_may_go_on_without(bench):
    die(bench.see(**LOST), number=9)
    bench.settings = replace(SETTINGS, device="cpu")
    bench.tick()
    assert starts(bench) == 2 and bench.memory.gpu is None


def test_configured_for_a_gpu_it_waits_for_one_from_the_first_start_on():
    bench = Bench(replace(SETTINGS, device="cuda"), **LOST)
    bench.tick()
    settle(bench)
    assert bench.state == RunState.WAITING and not starts(bench)


def test_other_failures_are_what_they_were(bench):
    die(bench.see(**LOST), code=int(Exit.CONFIG))
    bench.tick()
    assert bench.state == RunState.FAILED


def test_the_forge_needs_no_gpu(bench):
    die(bench.see(data_ready=False, **LOST), number=9)
    wait(bench, 60, step=0.25)
    assert bench.of(Launch)[-1].plan.program == "forge"


def test_what_is_in_memory_is_saved_before_a_wait_that_mostly_ends_by_a_reboot(bench):
    bench.see(**LOST).ended(number=9).tick()
    bench.settle(*kept(100), snapshot=SnapshotSeen("step-00000120-a01", 120, "/dev/shm/x"))
    assert not bench.of(AskSettle)[-1].commit
    bench.tick()
    bench.tick()
    assert bench.of(AskSettle)[-1].commit and bench.state == RunState.WAITING and not bench.of(Reboot)


def test_people_stop_it_and_start_it_again(bench):
    bench.see(**SILENT)
    for _ in range(8):
        die(bench, code=NO_GPU)
        wait(bench, 2 * LONGEST_PACE_S)
        bench.started().see(pulse=None).tick()
    die(bench, code=NO_GPU)
    count = starts(bench)
    bench.see(desired=Desired(running=False)).tick()
    settle(bench)
    bench.tick()
    assert bench.state == RunState.STOPPED
    bench.see(desired=Desired(running=True)).tick()
    settle(bench)
    wait(bench, 5, step=0.25)
    assert starts(bench) == count + 1  # who says so has a reason: no pace is left


def test_the_next_watchdog_goes_on_waiting_and_the_next_boot_looks_anew(bench):
    die(bench.see(**SILENT), code=NO_GPU)
    waits = bench.memory.gpu
    assert restored(bench.memory, bench.now, same_boot=True).gpu == waits
    assert restored(bench.memory, 1.0, same_boot=False).gpu is None


# ── reboots ──


def asking(**seen) -> Bench:
    bench = training(ASKING, **seen)
    bench.now += 7200
    bench.pulse(120).tick()
    return die(bench.see(**LOST), number=9)


def test_nobody_is_asked_for_a_reboot_unless_people_want_it(bench):
    wait(die(bench.see(**LOST), number=9), 3 * DAY_S, step=600)
    assert not bench.of(Reboot)


def test_a_reboot_is_asked_for_after_the_wait_and_once():
    bench = asking()
    wait(bench, 890)
    assert not bench.of(Reboot)
    wait(bench, 20)
    (reboot,) = bench.of(Reboot)
    assert reboot.step == 120 and reboot.why.startswith("GPU 0 fell off the bus (Xid 79)")
    assert bench.told("reboot") and bench.state == RunState.WAITING
    bench.see(reboots=(RebootSeen(0.0, 120, True),))
    wait(bench, 3580)
    assert len(bench.of(Reboot)) == 1
    bench.see(reboots=(RebootSeen(920.0, 120, True),)).tick()
    assert any("has not come" in note for note in bench.decision.notes)
    wait(bench, 30)
    assert len(bench.of(Reboot)) == 2


@pytest.mark.parametrize(
    "seen",
    [
        WELL,
        {"desired": Desired(pauses=("human",))},
        {"reboots": None},
        {"reboots": (RebootSeen(50_000, 10, False), RebootSeen(10_000, 20, False))},
    ],
)
def test_no_reboot_where_it_would_not_help_is_not_wanted_or_not_allowed(seen):
    bench = asking()
    bench.see(**seen)
    began = bench.now
    while bench.now < began + 4000:
        wait(bench, 4000)
        if bench.memory.stage == Stage.STARTING:  # NVML sees a GPU, and the trainer none
            bench.started().see(pulse=None).tick()
            die(bench, code=NO_GPU)
    assert not bench.of(Reboot) and bench.state in (RunState.WAITING, RunState.STARTING)


def test_a_machine_that_was_just_started_is_left_alone():
    bench = Bench(ASKING, trained_on="cuda H200", **LOST)
    bench.now = 10.0
    bench.settings = replace(ASKING, reboot=RebootRules(per_day=2, uptime_s=3600.0))
    wait(bench, 3580)
    assert bench.state == RunState.WAITING and not bench.of(Reboot)
    wait(bench, 60)
    assert len(bench.of(Reboot)) == 1


def test_reboots_that_did_not_help_are_the_end_with_the_reason():
    bench = asking(reboots=(RebootSeen(10_000, 120, False), RebootSeen(5_000, 120, False)))
    wait(bench, 30)
    assert bench.state == RunState.FAILED and not bench.of(Reboot)
    assert bench.decision.reason.startswith("GPU 0 fell off the bus (Xid 79)")
    assert "2 reboots within a day did not help, and no step was trained since" in bench.decision.reason


def test_reboots_that_never_came_or_that_helped_are_no_end():
    for reboots in (
        (RebootSeen(10_000, 120, True), RebootSeen(5_000, 120, True)),
        (RebootSeen(10_000, 110, False), RebootSeen(5_000, 120, False)),
        (RebootSeen(DAY_S + 1, 120, False), RebootSeen(5_000, 120, False)),
    ):
        bench = wait(asking(reboots=reboots), 1000)
        assert bench.state == RunState.WAITING, reboots


def test_a_program_that_hangs_on_a_lost_gpu_and_does_not_die_is_a_reason_too():
    bench = training(ASKING)
    bench.now += 7200
    bench.see(child_letter="D", **LOST)
    for _ in range(3000):
        bench.tick(1)
    assert bench.memory.stage == Stage.RUNNING and len(bench.told("gpu")) == 1 and len(bench.of(Reboot)) == 1
