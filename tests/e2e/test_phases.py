"""A run with two phases, killed around the step in which the second begins."""

from two_phases import TWO_PHASES, write_texts

from adam.contract.config_file import load_config
from adam.contract.curriculum import first_steps
from adam.contract.shards import load_tokens

STEPS = 50


def test_killed_where_a_phase_begins_the_run_is_the_undisturbed_one(new_run, tmp_path) -> None:
    text = tmp_path / "text"
    write_texts(text, documents=40, words=(10, 60))
    whole = new_run("whole", steps=STEPS, config=TWO_PHASES, text=text)
    whole.adamctl("up", "--wait", timeout=300)
    tokens, trainer = load_tokens(whole.paths), load_config(whole.paths.lock).trainer
    assert tokens is not None
    (_, one), (name, other) = first_steps(tokens, trainer.seq_len, trainer.batch_size)
    assert (one, name) == (1, "wild")
    assert 10 < other < STEPS - 10
    assert whole.status()["phases"] == [{"name": "calm", "step": 1}, {"name": "wild", "step": other}]
    run = new_run("run", steps=STEPS, config=TWO_PHASES, text=text)
    run.up_with(*(word for step in range(other - 2, other + 2) for word in ("--do", f"{step}:kill")))
    assert run.wait_final(400) == "finished", run.logs()
    assert len(run.events("crashed")) == 4
    assert run.losses() == whole.losses()
    assert run.validations() == whole.validations()
    assert run.final_state() == whole.final_state()
