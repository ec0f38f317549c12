"""Every end-to-end test is marked, has minutes, and leaves no process behind."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from real_run import RealRun


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/e2e/" in str(item.path):
            item.add_marker(pytest.mark.e2e)
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(600))


@pytest.fixture
def new_run(tmp_path: Path) -> Iterator[Callable[..., RealRun]]:
    """Makes runs; ends all their processes afterwards."""
    runs: list[RealRun] = []

    def make(name: str = "run", **options: object) -> RealRun:
        run = RealRun(tmp_path / name, **options)  # type: ignore[arg-type]
        runs.append(run)
        return run

    yield make
    for run in runs:
        run.end()
