"""What every test needs: shared memory of its own, so that nothing is left behind on the machine."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# An example may take as long as a loaded machine makes it: pytest's own time-out is the one that counts.
settings.register_profile("adam", deadline=None)
settings.load_profile("adam")

pytest_plugins = ["stand_ins"]


@pytest.fixture(scope="session", autouse=True)
def shared_memory() -> Iterator[Path]:
    """A directory on the machine's tmpfs (elsewhere where there is none), for this process and all that it starts."""
    tmpfs = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="test-adam-", dir=tmpfs if tmpfs.is_dir() else None))
    os.environ["ADAM_SHM"] = str(place)
    # Whoever was started in the background by a shell ignores SIGINT, and so would all that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield place
    shutil.rmtree(place)
    del os.environ["ADAM_SHM"]
