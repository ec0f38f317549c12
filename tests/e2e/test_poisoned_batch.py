"""A batch that gives no number, through all of Adam's processes: gone back from, left out, and the run finishes.

Its losses and its last state are bit for bit those of a run that was told to leave the same data out from the start.
"""

import subprocess
import sys
from pathlib import Path

from real_run import CONFIG, RealRun

from adam.contract import schema
from adam.contract.clock import stamp
from adam.contract.records import Desired, Plan
from adam.daemon.supervisord import start_detached

POISONED = Path(__file__).parents[1] / "faults" / "poisoned_trainer.py"
STEPS, POISON = 140, 321  # four samples an update: the 81st
EDITED = CONFIG.replace("every_steps = 20", "every_steps = 20\nkeep_last = 20") + "\n[numeric]\nhealthy_steps = 20\n"


def start_with(run: RealRun, trainer: str) -> subprocess.Popen[bytes]:
    """As `adamctl up`, with another command line for the trainer (the launcher's COMMAND)."""
    run.adamctl("up", "--prepare")
    text = run.paths.supervisor_conf.read_text()
    plain = f"adam.watchdog.launcher --run {run.paths.root} trainer\n"
    assert text.count(plain) == 1, text
    run.paths.supervisor_conf.write_text(text.replace(plain, plain.rstrip() + f" -- {trainer}\n"))
    schema.save(run.paths.desired, Desired(stamp=stamp()))
    return start_detached(run.paths)


def test_a_poisoned_batch_is_left_out_and_the_run_finishes(new_run) -> None:
    run = new_run(steps=STEPS, config=EDITED)
    supervisord = start_with(run, f"{sys.executable} -P {POISONED} --poison {POISON}")
    assert run.wait_final() == "finished", run.logs()
    assert supervisord.wait(20) == 0
    (crashed,) = run.events("crashed")
    assert (crashed["facts"]["failure"], crashed["facts"]["code"]) == ("numeric", 7), crashed
    assert "step 81: loss nan" in crashed["text"]
    assert not run.events("hung")
    plan = schema.load(run.paths.plan, Plan)
    assert plan is not None
    assert (plan.attempt, plan.skip) == (
        3,
        ((316, 324),),
    )  # the forge was the first attempt; the update before is left out too
    assert plan.resume is not None and plan.resume.step <= 60
    rows = run.counting_rows()
    assert sorted(rows) == list(range(1, STEPS + 1))

    told = new_run("told", steps=STEPS, config=EDITED)
    told.paths.run.mkdir()
    schema.save(told.paths.plan, Plan(program="trainer", attempt=0, token=0, skip=plan.skip))
    told.adamctl("up", "--wait", timeout=300)
    assert told.losses() == run.losses()
    assert told.final_state() == run.final_state()
    assert told.validations() == run.validations()
