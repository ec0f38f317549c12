"""`desired.json`: two adamctl at once lose neither's change."""

import subprocess
import sys

import pytest

from adam.contract import schema
from adam.contract.records import Desired
from adam.daemon.wishes import change_desired, read_desired, with_pause, with_running, with_save, without_pause

COUNT = """
import sys
from pathlib import Path
from adam.contract.paths import RunPaths
from adam.daemon.wishes import change_desired, with_save
for _ in range(25):
    change_desired(RunPaths(Path(sys.argv[1])), with_save)
"""


def test_no_change_is_lost_between_processes(world) -> None:
    paths = world.run()
    command = [sys.executable, "-P", "-c", COUNT, str(paths.root)]
    workers = [subprocess.Popen(command) for _ in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    assert read_desired(paths).saves == 75


def test_changes_keep_what_others_wanted(world) -> None:
    paths = world.run()
    schema.save(paths.desired, Desired(pauses=("heat",), saves=3))
    change_desired(paths, lambda desired: with_pause(desired, "human"))
    change_desired(paths, lambda desired: with_pause(desired, "human"))
    found = change_desired(paths, lambda desired: with_running(desired, False))
    assert (found.pauses, found.saves, found.running) == (("heat", "human"), 3, False)
    assert found.stamp is not None
    assert without_pause(found, "human").pauses == ("heat",)
    assert with_save(found).saves == 4


def test_resume_names_who_else_pauses(world) -> None:
    paths = world.run()
    schema.save(paths.desired, Desired(pauses=("heat", "human")))
    assert "stays paused by: heat" in world.adamctl("resume", "--run", "run").stdout


@pytest.mark.parametrize("content", ["", "{", "[]", '{"saves": "x"}'])
def test_a_file_that_cannot_be_read_is_replaced(world, content: str) -> None:
    paths = world.run()
    paths.desired.write_text(content)
    assert change_desired(paths, with_save).saves == 1
