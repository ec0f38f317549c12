"""The demo itself, as a newcomer starts it: undisturbed, and with every kill of the list. Ten minutes: `bin/test --campaign`."""

import os
import random
import signal
from pathlib import Path

import pytest
from real_run import RealRun, wait_for

from adam.contract.process import state_letter

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(3600)]
DEADLINE_S = 3000  # shared machines: a time-out, not a claim


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> RealRun:
    run = demo(tmp_path_factory.mktemp("demo") / "undisturbed")
    try:
        run.adamctl("up", "--wait", timeout=DEADLINE_S)
    finally:
        run.end()
    return run


def demo(root: Path) -> RealRun:
    run = RealRun(root)
    run.paths.config.unlink()  # `up` without a configuration is the demo
    return run


def test_the_demo_beats_the_order_2_byte_model(undisturbed: RealRun) -> None:
    status = undisturbed.status()
    print(
        f"\nbits per byte: {status['val_bits_per_byte']:.3f}; order-2 byte model: {status['order2_bits_per_byte']:.3f}"
    )
    assert status["state"] == "finished"
    assert status["val_bits_per_byte"] < status["order2_bits_per_byte"]


def test_all_the_kills_of_the_list_change_no_bit(undisturbed: RealRun, tmp_path) -> None:
    run = demo(tmp_path / "disturbed")
    try:
        disturb(run)
        assert run.wait_final(DEADLINE_S) == "finished", run.logs()
        assert run.losses() == undisturbed.losses()
        steps = undisturbed.status()["steps"]
        assert [step for step, _ in run.losses()] == list(range(1, steps + 1))
        ranges = [(int(row["first_sample"]), int(row["end_sample"])) for _, row in sorted(run.counting_rows().items())]
        assert ranges == [(4 * step, 4 * step + 4) for step in range(steps)]
        assert run.processes() == []
        times = [event["facts"]["quiet_s"] for event in run.events("hung")]
        print(
            f"\nrestarts: {run.status()['restarts']}; hang seen after {times} s; rows {len(run.rows())} for {steps} steps"
        )
    finally:
        run.end()


def disturb(run: RealRun) -> None:
    """Five kills of the trainer at random moments, one of the watchdog, one of supervisord, one SIGSTOP of the trainer."""
    run.adamctl("up")
    moments = random.Random(os.urandom(8))
    for number in range(5):
        victim = trainer_at(run, 20 + 50 * number + moments.randrange(50))
        os.kill(victim, signal.SIGKILL)
        wait_for("the kernel has ended it", lambda pid=victim: state_letter(pid) in (None, "Z"))
        if number == 1:
            trainer_at(run, 0)
            watchdog = run.pid_of("adam.watchdog")
            os.kill(watchdog, signal.SIGKILL)
            wait_for("another watchdog", lambda old=watchdog: run.pid_of("adam.watchdog") not in (0, old))
        if number == 2:
            trainer_at(run, 0)
            os.kill(int(run.paths.supervisor_pid.read_text()), signal.SIGKILL)
            wait_for("nobody outlives supervisord", lambda: not run.processes(), 5)
            run.adamctl("up")
    stopped = trainer_at(run, 300)
    os.kill(stopped, signal.SIGSTOP)
    wait_for("the hung trainer is gone", lambda: state_letter(stopped) in (None, "Z"), 60)


def trainer_at(run: RealRun, step: int) -> int:
    """The living trainer, once `step` was logged."""
    wait_for(f"step {step}", lambda: run.step() >= step, DEADLINE_S)
    # Not by its command line alone: the template has the same.
    return wait_for("a trainer", lambda: (pid := run.trainer_pid()) in run.processes() and pid, 120)
