"""How several ranks end: together, and as the first of them did that ended badly; and how they go on from there."""

import os
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from born import bits, config, rows, train, trainer
from rank_group import lease, wait_until
from small_run import make_run, write_plan

from adam.contract import schema
from adam.contract.config_file import write_lock
from adam.contract.paths import RunPaths
from adam.contract.process import start_ticks
from adam.contract.records import Numerics, Resume
from adam.contract.shared import Control, Pulse, SharedWord, read_once
from adam.contract.states import Exit, Phase
from adam.contract.steplog import newest_key
from adam.watchdog.keeper import Keeper
from adam.watchdog.keeper_words import Settle
from adam.watchdog.numerics import NumericsMemory, hear_numerics
from adam.watchdog.store import Store

pytestmark = pytest.mark.timeout(600)
STEPS = 12


def ranks(paths: RunPaths) -> list[Pulse]:
    pulses = [read_once(paths.pulse(str(rank)), Pulse) for rank in range(2)]
    return [pulse for pulse in pulses if pulse is not None]


def wait_for_step(paths: RunPaths, process: BaseProcess, step: int) -> None:
    def there() -> bool:
        assert process.exitcode is None, paths.log("trainer").read_text()
        return newest_key(paths.steps).step >= step

    wait_until(there, 400)


def left_by(paths: RunPaths, keeper: Keeper, attempt: int) -> Resume:
    """The newest snapshot, in memory or on disk, for the next attempt."""
    answer = keeper.answer(Settle(attempt, attempt, commit=False))
    assert not answer.trouble, answer
    if answer.snapshot is not None:
        return Resume(answer.snapshot.name, answer.snapshot.step, answer.snapshot.slot)
    newest = max(answer.checkpoints, key=lambda kept: kept.step)
    return Resume(newest.name, newest.step)


def pids_left(pids: list[int]) -> list[int]:
    return [pid for pid in pids if start_ticks(pid) is not None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> RunPaths:
    """A run of two ranks that nothing disturbs."""
    paths = make_run(tmp_path_factory.mktemp("whole") / "run", config(2, steps=STEPS, eval_every=5))
    assert train(paths, write_plan(paths)) == 0, paths.log("trainer").read_text()
    return paths


@pytest.fixture
def run(tmp_path: Path) -> RunPaths:
    return make_run(tmp_path / "run", config(2, steps=STEPS, eval_every=5))


def test_killed_and_stopped_anywhere_two_ranks_go_on_to_the_same_bits(run, whole) -> None:
    """Rank 1 is killed, then rank 0, then their agent; then somebody asks for an end; then all is done."""
    keeper = Keeper(_store(run))
    resume = None
    for attempt, (victim, step) in enumerate([("rank 1", 2), ("rank 0", 4), ("agent", 6), ("stop", 8), ("", STEPS)], 1):
        lease(run, attempt)
        with trainer(run, write_plan(run, attempt, resume)) as process:
            if victim:
                wait_for_step(run, process, step)
                _strike(run, process, victim)
            process.join(400)
            log = run.log("trainer").read_text()
            expected = {"stop": Exit.STOPPED, "": Exit.OK}.get(victim, -signal.SIGKILL)
            assert process.exitcode == expected, log
            if victim.startswith("rank"):
                assert f"{victim} (process" in log.splitlines()[-1], log
            pids = [process.pid or 0, *(pulse.pid for pulse in ranks(run))]
            wait_until(lambda pids=pids: not pids_left(pids), 5)
        resume = left_by(run, keeper, attempt) if victim else None
    done = {row[0]: row for row in bits(run)}
    assert [done[step] for step in range(1, STEPS + 1)] == bits(whole)


def _strike(paths: RunPaths, process: BaseProcess, victim: str) -> None:
    if victim == "stop":
        os.kill(process.pid or 0, signal.SIGTERM)
    elif victim == "agent":
        os.kill(process.pid or 0, signal.SIGKILL)
    else:
        os.kill(ranks(paths)[int(victim[-1])].pid, signal.SIGKILL)


def _store(paths: RunPaths) -> Store:
    return Store(paths, keep_last=10, milestone_every=0)


def test_one_two_and_again_one_rank_go_on_from_one_another(tmp_path) -> None:
    """The samples are the same, the losses those of one rank within the order of sums, and the numerics say that it was a break."""
    alone = make_run(tmp_path / "alone", config(1, steps=STEPS, eval_every=5))
    assert train(alone, write_plan(alone)) == 0
    paths = make_run(tmp_path / "run", config(2, steps=STEPS, eval_every=5))
    keeper, resume, told = Keeper(_store(paths)), None, []
    for attempt, (world, until) in enumerate([(2, 3), (1, 6), (2, STEPS)], 1):
        lease(paths, attempt)
        write_lock(paths.lock, config(world, steps=until, decay_steps=STEPS, eval_every=5))
        assert train(paths, write_plan(paths, attempt, resume)) == 0, paths.log("trainer").read_text()
        numerics = schema.load(paths.numerics, Numerics)
        assert numerics is not None
        told.append(numerics)
        resume = left_by(paths, keeper, attempt)
    single, found = rows(alone), {row.step: row for row in rows(paths)}
    assert [(row.step, row.first_sample) for row in single] == [(n, found[n].first_sample) for n in sorted(found)]
    for row in single:
        assert found[row.step].loss == pytest.approx(row.loss, rel=1e-5)
        assert found[row.step].grad_norm == pytest.approx(row.grad_norm, rel=1e-5)
    memory, breaks = NumericsMemory(), []
    for numerics in told:
        memory, text = hear_numerics(memory, numerics)
        breaks.append(text)
    assert breaks == ["", "step 3: ranks 2 -> (none)", "step 6: ranks (none) -> 2"]


def test_a_pause_stands_all_ranks_still_and_what_is_asked_for_is_saved(run) -> None:
    control = SharedWord(run.control, Control, write=True)
    control.write(Control(token=1, pause=1, saves=1))
    with trainer(run, write_plan(run)) as process:
        wait_until(lambda: [pulse.saves for pulse in ranks(run)] == [1, 1], 300)
        both = ranks(run)
        assert [(pulse.phase, pulse.step, pulse.saves) for pulse in both] == [(Phase.PAUSED, 0, 1)] * 2
        wait_until(lambda: all(now.progress > then.progress for now, then in zip(ranks(run), both, strict=True)), 60)
        os.kill(process.pid or 0, signal.SIGUSR1)
        for name in ("stacks", "stacks-1"):
            wait_until(lambda name=name: "wait_while_paused" in _text(run.log(name)), 60)
        control.write(Control(token=1, stop=1))
        process.join(300)
        assert process.exitcode == Exit.STOPPED, run.log("trainer").read_text()
    assert not rows(run)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_what_ranks_can_not_do_is_one_line_and_the_documented_code(run) -> None:
    lines = []
    for changes in ({"micro_batch": 8}, {"backend": "mamba_ssm"}):
        assert train(run, write_plan(run, **changes)) == Exit.CONFIG
        lines.append(run.log("trainer").read_text().splitlines()[-1])
    assert lines[0] == "adam.trainer: the plan's micro-batch 8 does not divide trainer.batch_size = 8 among 2 GPUs"
    assert lines[1].startswith("adam.trainer: trainer.backend = 'mamba_ssm' needs an NVIDIA GPU")


def test_a_loss_that_is_not_finite_ends_all_ranks_and_is_logged(run) -> None:
    write_lock(run.lock, config(2, steps=STEPS, lr=1e30, min_lr=1e30, warmup_steps=0))
    assert train(run, write_plan(run)) == Exit.NUMERIC, run.log("trainer").read_text()
    assert rows(run)[-1].loss is None and rows(run)[-1].step > 1
    assert "loss nan" in run.log("trainer").read_text().splitlines()[-1]
