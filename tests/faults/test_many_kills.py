"""SIGKILL at random microseconds of trainer or keeper during saves: nothing torn is ever loaded, and nothing is unrecoverable.

The trainer is the fake one (its weights are a chain of hashes, its start checks every byte), the keeper the real process, and this test is
the watchdog between them. A hundred kills in the ordinary run; `bin/test --campaign` does 2,000.
"""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fake_trainer import REPEAT, START, updated
from real_run import wait_for

from adam.contract import schema
from adam.contract.checkpoints import list_checkpoints, rank_file, verify
from adam.contract.config import Checkpoint, Config, Trainer
from adam.contract.config_file import write_lock
from adam.contract.durable import whole_lines
from adam.contract.lease import take_lease
from adam.contract.paths import RunPaths
from adam.contract.records import Plan, Resume, decode_step
from adam.contract.shared import Control, Pulse, SharedWord, read_once
from adam.contract.slots import read_head
from adam.watchdog.keeper_words import Answer, Commit, Request, Settle

FAKE = Path(__file__).parent / "fake_trainer.py"
ENOUGH_STEPS = 10_000_000


class Keeper:
    """The real keeper process; asked and answered a line at a time."""

    def __init__(self, paths: RunPaths) -> None:
        command = [sys.executable, "-P", "-m", "adam.watchdog.keeper", "--run", str(paths.root)]
        command += ["--parent", str(os.getpid()), "--keep-last", "2", "--milestone-every", "0"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

    def ask(self, request: Request) -> None:
        assert self.process.stdin
        self.process.stdin.write(msgspec.json.encode(request) + b"\n")

    def answer(self) -> Answer | None:
        """None where it died before it had answered."""
        assert self.process.stdout
        line = self.process.stdout.readline()
        return msgspec.json.decode(line, type=Answer) if line.endswith(b"\n") else None

    def kill(self) -> None:
        self.process.kill()
        self.end()

    def end(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class Kills:
    """A run that is killed again and again, and what it must have kept."""

    def __init__(self, root: Path, seed: int) -> None:
        self.paths = RunPaths(root)
        for directory in (self.paths.run, self.paths.logs, self.paths.checkpoints):
            directory.mkdir(parents=True)
        checkpoint = Checkpoint(every_steps=5, keep_last=2)
        write_lock(self.paths.lock, Config(trainer=Trainer(steps=ENOUGH_STEPS), checkpoint=checkpoint))
        self.control: SharedWord[Control] = SharedWord(self.paths.control, Control, write=True)
        self.chance = random.Random(seed)
        self.keeper = Keeper(self.paths)
        self.trainer: subprocess.Popen[bytes] | None = None
        self.token = 0
        self.resume: Resume | None = None
        self.acknowledged = 0
        self.furthest = Pulse()
        self.offset = self.furthest_logged = 0
        self.counts = {"trainer": 0, "keeper": 0, "in memory": 0, "on disk": 0, "in a save": 0}

    def start(self) -> None:
        """The next attempt, from wherever the keeper said."""
        self.token += 1
        plan = Plan(program="trainer", attempt=self.token, token=self.token, resume=self.resume)
        schema.save(self.paths.plan, plan, durable=False)
        fd, _ = take_lease(self.paths, "trainer", self.token, self.token)
        environment = {**os.environ, "ADAM_TOKEN": str(self.token), "ADAM_ATTEMPT": str(self.token)}
        command = [sys.executable, "-P", str(FAKE), "--step-ms", "1", "--run", str(self.paths.root)]
        with self.paths.log("trainer").open("ab") as log:
            self.trainer = subprocess.Popen(command, env=environment, pass_fds=(fd,), stdout=log, stderr=log)
        os.close(fd)

    def pulse(self) -> Pulse:
        pulse = read_once(self.paths.pulse("0"), Pulse)
        return pulse if pulse is not None and pulse.token == self.token else Pulse()

    def until_training(self) -> None:
        def trains() -> bool:
            assert self.trainer is not None
            assert self.trainer.poll() is None, self.paths.log("trainer").read_text()[-2000:]
            return self.pulse().snapshots > 0

        wait_for("a snapshot", trains)

    def commit(self) -> None:
        self.keeper.ask(Commit(resumed=self.resume.checkpoint if self.resume and self.resume.slot else ""))

    def hear(self) -> None:
        answer = self.keeper.answer()
        assert answer is not None and not answer.trouble and not answer.quarantined, answer
        if answer.newest:
            self.acknowledged = max(self.acknowledged, answer.newest.step)

    def disturb(self) -> None:
        """Kill one of them at a random moment within a save of its own."""
        assert self.trainer is not None
        self.commit()
        if self.chance.random() < 0.5:
            # From before the first byte is copied to after the last is deleted.
            time.sleep(self.chance.random() * 0.012)
            self.keeper.kill()
            self.counts["keeper"] += 1
            self.counts["in a save"] += any(self.paths.checkpoints.glob(".tmp-*"))
            self.keeper = Keeper(self.paths)
            self.commit()
            self.hear()
        else:
            time.sleep(self.chance.random() * 0.012)
            self.end_trainer()
            self.hear()
            self.counts["trainer"] += 1
            self.settle(commit=self.chance.random() < 0.3)
            self.start()
            self.until_training()

    def end_trainer(self) -> None:
        assert self.trainer is not None
        self.furthest = self.pulse()
        self.trainer.kill()
        self.trainer.wait()

    def settle(self, *, commit: bool) -> None:
        """As between two attempts; what is found must be no older than what was promised."""
        resumed = self.resume.checkpoint if self.resume and self.resume.slot else ""
        self.keeper.ask(Settle(self.token, self.token, resumed=resumed, commit=commit))
        answer = self.keeper.answer()
        assert answer is not None and not answer.trouble and not answer.quarantined, answer
        for checkpoint in list_checkpoints(self.paths.checkpoints):
            manifest = verify(checkpoint)
            check_weights(checkpoint / rank_file(0), manifest.step)
            assert manifest.step <= self.logged()
        if answer.snapshot is not None:
            self.resume = Resume(answer.snapshot.name, answer.snapshot.step, answer.snapshot.slot)
            self.counts["in memory"] += 1
        else:
            assert answer.newest is not None
            self.resume = Resume(answer.newest.name, answer.newest.step)
            self.counts["on disk"] += 1
        assert self.resume.step >= self.acknowledged
        # The fake trainer takes a snapshot after every step: one may have been under way.
        assert self.furthest.step - self.resume.step <= 2, (self.furthest, self.resume)

    def logged(self) -> int:
        """The furthest step of the log, read on from where it was read to."""
        for offset, line in whole_lines(self.paths.steps, self.offset):
            self.offset = offset
            self.furthest_logged = max(self.furthest_logged, decode_step(line, self.paths.steps).step)
        return self.furthest_logged

    def end(self) -> None:
        if self.trainer is not None:
            self.trainer.kill()
            self.trainer.wait()
        self.keeper.end()


WEIGHTS = [START]  # by step


def check_weights(path: Path, step: int) -> None:
    """The bytes are those of exactly this step."""
    while len(WEIGHTS) <= step:
        WEIGHTS.append(updated(WEIGHTS[-1], len(WEIGHTS) - 1))  # by the data at that position
    found = read_head(path)
    assert found is not None and found[0].step == step
    assert path.read_bytes()[found[1]["weights"].start :] == WEIGHTS[step] * REPEAT


def run_kills(root: Path, number: int, seed: int) -> dict[str, Any]:
    run = Kills(root, seed)
    try:
        run.start()
        run.until_training()
        for _ in range(number):
            run.disturb()
        return run.counts
    finally:
        run.end()


@pytest.mark.timeout(300)
def test_a_hundred_kills(tmp_path: Path) -> None:
    counts = run_kills(tmp_path / "run", 100, seed=1)
    print(f"\n{counts}")
    assert counts["in memory"] > 5 and counts["on disk"] > 5 and counts["keeper"] > 25


@pytest.mark.campaign
@pytest.mark.timeout(7200)
def test_two_thousand_kills(tmp_path: Path) -> None:
    """Twenty runs: what a run has logged is read at each start, and grows with every kill."""
    counts: Counter[str] = Counter()
    for number in range(20):
        seed = int.from_bytes(os.urandom(4))
        print(f"\nrun {number}, seed {seed}", flush=True)
        counts.update(run_kills(tmp_path / f"run-{number}", 100, seed))
    print(f"\n{dict(counts)}")
    assert counts["trainer"] + counts["keeper"] == 2000
