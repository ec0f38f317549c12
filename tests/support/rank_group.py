"""Trainings of several ranks, as real processes that a test tells what to do (`tests/trainer/rank_worker.py`)."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adam.contract.lease import take_lease
from adam.contract.paths import RunPaths
from adam.contract.slots import read_head

WORKER = Path(__file__).parents[1] / "trainer" / "rank_worker.py"


class Group:
    """The ranks of one training. `do` has all of them do something at once and gives their answers, in order."""

    def __init__(self, world: int, place: Path) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONSAFEPATH": "1"}
        self.place, self.world = place, world
        self.logs = [(place / f"rank-{rank}.log").open("w") for rank in range(world)]
        self.processes = [
            subprocess.Popen(
                [sys.executable, str(WORKER), str(rank), str(world), str(place / "meet")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.logs[rank],
                env=environment,
                text=True,
            )
            for rank in range(world)
        ]
        assert self.answers() == ["ready"] * world

    def tell(self, rank: int, what: str, **arguments: object) -> None:
        stdin = self.processes[rank].stdin
        assert stdin is not None
        stdin.write(json.dumps([what, arguments]) + "\n")
        stdin.flush()

    def answer(self, rank: int) -> Any:
        stdout = self.processes[rank].stdout
        assert stdout is not None
        line = stdout.readline()
        assert line, (self.place / f"rank-{rank}.log").read_text()
        return json.loads(line)

    def answers(self) -> list[Any]:
        return [self.answer(rank) for rank in range(self.world)]

    def do(self, what: str, **arguments: object) -> list[Any]:
        for rank in range(self.world):
            self.tell(rank, what, **arguments)
        return self.answers()

    def same(self, what: str, **arguments: object) -> Any:
        """What all ranks answer alike."""
        answers = self.do(what, **arguments)
        assert all(answer == answers[0] for answer in answers), answers
        return answers[0]

    def end(self) -> None:
        for process in self.processes:
            process.kill()
        for process, log in zip(self.processes, self.logs, strict=True):
            process.communicate()
            log.close()


class Groups:
    """Groups of any number of ranks, started when they are asked for."""

    def __init__(self, place: Path) -> None:
        self.place, self.started = place, {}

    def of(self, world: int) -> Group:
        if world not in self.started:
            self.started[world] = self.fresh(world)
        return self.started[world]

    def fresh(self, world: int) -> Group:
        place = self.place / f"{world}-{len(list(self.place.iterdir()))}"
        place.mkdir()
        return Group(world, place)


def wait_until(look: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def step_of(file: Path) -> int:
    """The step of a complete file; -1: it is being written."""
    found = read_head(file)
    return found[0].step if found else -1


def lease(paths: RunPaths, token: int) -> None:
    fd, _ = take_lease(paths, "trainer", token, 1)
    os.close(fd)


def trained(group: Group) -> dict[str, Any]:
    """What the ranks have together: weights, moments and AdamW's count of steps."""
    states = group.do("state")
    for state in states:
        assert (state["whole"], state["steps"]) == (states[0]["whole"], states[0]["steps"])
    return {"whole": states[0]["whole"], "steps": states[0]["steps"]}


def random_states(group: Group) -> list[str]:
    return [state["random"] for state in group.do("state")]


def go_on_from(group: Group, arch: str, directory: Path, *, committed: bool, **shape: int) -> dict[str, Any]:
    """What new models of these ranks hold after loading."""
    group.do("make", arch=arch, seed=99, **shape)
    group.same("restore", directory=str(directory), committed=committed)
    return trained(group)
