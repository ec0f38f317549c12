"""A whole run of two ranks: one is killed, one hangs, and the losses are those of two ranks that were left alone."""

import os
import signal

from born import train
from real_run import CONFIG, RealRun, wait_for
from small_run import write_plan

from adam.contract.durable import whole_lines
from adam.contract.paths import RunPaths
from adam.contract.process import alive, start_ticks
from adam.contract.records import StepRow, decode_step
from adam.contract.shared import Pulse, read_once
from adam.contract.steplog import newest_key

STEPS = 60
TWO = CONFIG.replace("threads = 1", 'threads = 1\ndevice = "cpu"\ngpus = 2').replace(
    "eval_every = 50", "eval_every = 40"
)


def rank(run: RealRun, number: int) -> int:
    pulse = read_once(run.paths.pulse(str(number)), Pulse)
    assert pulse is not None
    return pulse.pid


def wait_for_step(run: RealRun, attempt: int, step: int) -> None:
    def there() -> bool:
        newest = newest_key(run.paths.steps)
        return newest.attempt >= attempt and newest.step >= step

    wait_for(f"step {step} of attempt {attempt}", there, 400)


def undisturbed(run: RealRun) -> dict[int, tuple[float | None, ...]]:
    """The same configuration and data, trained in one go by two ranks that nobody watches."""
    paths = RunPaths(run.paths.root.parent / "alone")
    for directory in (paths.run, paths.logs, paths.checkpoints):
        directory.mkdir(parents=True)
    paths.tokens.symlink_to(run.paths.tokens)
    paths.lock.write_bytes(run.paths.lock.read_bytes())
    assert train(paths, write_plan(paths)) == 0, paths.log("trainer").read_text()
    return numbers(paths)


def numbers(paths: RunPaths) -> dict[int, tuple[float | None, ...]]:
    rows: list[StepRow] = [decode_step(line, paths.steps) for _, line in whole_lines(paths.steps)]
    return {row.step: (row.loss, row.grad_norm, row.val_loss, row.first_sample) for row in rows}


def test_a_rank_that_dies_and_a_rank_that_hangs_cost_no_bit(new_run) -> None:
    run = new_run(steps=STEPS, config=TWO)
    run.adamctl("up")
    wait_for_step(run, 2, 8)  # attempt 1 was the forge
    os.kill(rank(run, 1), signal.SIGKILL)
    wait_for_step(run, 3, 24)
    assert [event["facts"]["detail"] for event in run.events("crashed")] == ["SIGKILL"], run.logs()

    hanging = rank(run, 1)
    ticks = start_ticks(hanging) or 0
    os.kill(hanging, signal.SIGSTOP)
    wait_for("the hang", lambda: run.events("hung"), 400)
    wait_for("the end of the rank that hangs", lambda: not alive(hanging, ticks), 120)
    (hung,) = run.events("hung")
    bundle = run.paths.root / hung["facts"]["bundle"]
    stacks = (bundle / "stacks.txt").read_text()
    assert "most recent call first" in stacks and "loop.py" in stacks, stacks  # of rank 0, which waits for the other
    assert "State:\tT (stopped)" in (bundle / f"proc-{hanging}.txt").read_text()

    assert run.wait_final(400) == "finished", run.logs()
    assert numbers(run.paths) == undisturbed(run)
    status = run.status()
    assert (status["state"], status["step"], status["restarts"]) == ("finished", STEPS, 2)
    assert not run.events("numerics_changed")
    run.adamctl("checkpoints", "verify", "--all")
