"""How several ranks end: together, and as the first of them did that ended badly; and how they go on from there."""

import os
import signal
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from born import train, trainer
from rank_group import lease, wait_until
from small_run import make_run, write_plan
from test_gpus import bits, config

from adam.contract.paths import RunPaths
from adam.contract.process import start_ticks
from adam.contract.records import Resume
from adam.contract.shared import Pulse, read_once
from adam.contract.states import Exit
from adam.contract.steplog import newest_key
from adam.watchdog.keeper import Keeper
from adam.watchdog.keeper_words import Settle

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


def _store(paths: RunPaths):
    from adam.watchdog.store import Store

    return Store(paths, keep_last=10, milestone_every=0)
