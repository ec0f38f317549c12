"""Training that goes wrong, through all of Adam's processes: gone back from, its data left out, and the run finishes.

Losses and last state are bit for bit those of a run that was told to leave the same data out from the start.
"""

import pytest
from fault_table import Row, record
from real_run import CONFIG, RealRun

from adam.contract import schema
from adam.contract.records import Plan

STEPS, POISON = 140, 321  # four samples an update: the 81st
EDITED = CONFIG.replace("every_steps = 20", "every_steps = 20\nkeep_last = 20") + "\n[numeric]\nhealthy_steps = 20\n"


def last_plan(run: RealRun) -> Plan:
    plan = schema.load(run.paths.plan, Plan)
    assert plan is not None
    return plan


def check_told(run: RealRun, told: RealRun) -> None:
    """`told` leaves out from the start what `run` found out about."""
    assert sorted(run.counting_rows()) == list(range(1, STEPS + 1))
    told.paths.run.mkdir()
    schema.save(told.paths.plan, Plan(program="trainer", attempt=0, token=0, skip=last_plan(run).skip))
    told.adamctl("up", "--wait", timeout=300)
    assert told.losses() == run.losses()
    assert told.final_state() == run.final_state()
    assert told.validations() == run.validations()


def test_a_poisoned_batch_is_left_out_and_the_run_finishes(new_run) -> None:
    run = new_run(steps=STEPS, config=EDITED)
    run.up_with("--poison", str(POISON))
    assert run.wait_final() == "finished", run.logs()
    (crashed,) = run.events("crashed")
    assert (crashed["facts"]["failure"], crashed["facts"]["code"]) == ("numeric", 7), crashed
    assert "step 81: loss nan" in crashed["text"]
    assert not run.events("hung")
    plan = last_plan(run)
    # The forge was the first attempt; the update before is left out too.
    assert (plan.attempt, plan.skip) == (3, ((316, 324),))
    assert plan.resume is not None and plan.resume.step <= 60
    check_told(run, new_run("told", steps=STEPS, config=EDITED))
    done = "back to before it, its data left out"
    losses = "equal to those of a run that was told to leave them out"
    record(Row("a batch gives NaN", "numeric: loss nan", None, done, None, losses))


@pytest.mark.campaign  # 25 s; test_whole_numeric.py has it with the fake trainer
@pytest.mark.timeout(300)
def test_a_spike_of_the_loss_is_gone_back_from(new_run) -> None:
    run = new_run(steps=STEPS, config=EDITED)
    run.up_with("--do", "90:spoil")
    assert run.wait_final() == "finished", run.logs()
    (numeric,) = run.events("numeric")
    assert numeric["facts"]["trouble"] == "spike", numeric
    (started,) = [event for event in run.events("started") if event["facts"]["attempt"] == 3]
    after = numeric["boottime"] - run.fault_at(90)
    check_told(run, new_run("told", steps=STEPS, config=EDITED))
    losses = "equal to those of a run that was told to leave them out"
    back = run.first_row_of(3) - run.fault_at(90)
    record(
        Row(
            "the loss spikes and stays high",
            "numeric: spike",
            after,
            "back to before it, its data left out",
            back,
            losses,
        )
    )
    assert started["facts"]["step"] <= 70


def test_a_chip_that_computes_wrong_once_is_gone_back_from(new_run) -> None:
    """Each update is computed twice here; the run that it is compared with computes nothing twice."""
    run = new_run(steps=STEPS, config=EDITED + "replay_minutes = 0.0001\n")
    run.up_with("--do", "90:flip")
    assert run.wait_final() == "finished", run.logs()
    (numeric,) = run.events("numeric")
    assert (numeric["facts"]["trouble"], numeric["facts"]["step"], numeric["facts"]["found"]) == (
        "silent corruption",
        90,
        91,
    )
    plan, at = last_plan(run), run.fault_at(90)
    assert plan.skip == () and plan.resume is not None and plan.resume.step <= 89
    other = new_run("other", steps=STEPS, config=EDITED + "replay_minutes = 0\n")
    other.adamctl("up", "--wait", timeout=300)
    assert run.losses() == other.losses() and run.final_state() == other.final_state()
    fault, done = (
        "the chip computes one bit wrong",
        "back to before the last time that two computations agreed; no data left out",
    )
    back = run.first_row_of(plan.attempt) - at
    record(Row(fault, "numeric: silent corruption (looked for once an hour)", numeric["boottime"] - at, done, back))
