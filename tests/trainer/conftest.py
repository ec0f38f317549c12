"""What the tests of several ranks need."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from rank_group import Group, Groups

from adam.contract.paths import RunPaths
from adam.watchdog.keeper import Keeper
from adam.watchdog.store import Store


@pytest.fixture(scope="session")
def groups(tmp_path_factory) -> Iterator[Groups]:
    groups = Groups(tmp_path_factory.mktemp("groups"))
    yield groups
    for group in groups.started.values():
        group.end()


@pytest.fixture
def pair(groups: Groups) -> Iterator[Group]:
    """Two ranks of one model, healthy again afterwards."""
    group = groups.of(2)
    group.do("make", arch="mamba2", seed=1)
    yield group
    group.do("unstage")


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    paths = RunPaths(tmp_path / "run")
    for directory in (paths.run, paths.logs, paths.checkpoints):
        directory.mkdir(parents=True)
    return paths


@pytest.fixture
def keeper(paths: RunPaths) -> Keeper:
    return Keeper(Store(paths, keep_last=10, milestone_every=0))
