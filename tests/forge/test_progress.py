"""What is said while the forge works: documents, rate, what is left, drops; a bar on a terminal, plain lines without one."""

import io
import os
import pty
from contextlib import suppress

import pytest

from adam.contract.paths import RunPaths
from adam.contract.shared import Pulse, read_once
from adam.contract.states import Phase
from adam.forge import progress as module
from adam.forge.progress import Facts, Progress


@pytest.fixture
def paths(tmp_path) -> RunPaths:
    (tmp_path / "run").mkdir()
    return RunPaths(tmp_path)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_plain_lines_have_documents_drops_rate_and_what_is_left(paths, monkeypatch) -> None:
    monkeypatch.setattr(module, "BEAT_S", 0.0)
    clock, stream = Clock(), io.StringIO()
    progress = Progress(paths, 1, 1, show=True, stream=stream, clock=clock)
    progress.enter(Phase.READING, 400_000_000)
    progress.at(100_000_000)  # where a killed one had come to
    for _ in range(4):
        clock.now += 3.0
        progress.counted(500, 10)
        progress.at(100_000_000 + int((clock.now - 100) * 2_000_000))
    progress.close()
    assert stream.getvalue().splitlines() == [
        "reading sources (400.0 MB)",
        "  124.0 MB of 400.0 MB, 2,000 documents, 40 dropped, 2.0 MB/s, 2 min left",
    ]
    pulse = read_once(paths.pulse("forge"), Pulse)
    assert pulse is not None
    assert (pulse.done, pulse.total) == (124_000_000, 400_000_000)


def test_what_is_not_known_is_not_said() -> None:
    facts = Facts("x", 0, 10.0)
    assert facts.words(0, 20.0) == ""
    facts.begun_at(0, lambda: 10.0)
    facts.documents = 3
    assert facts.words(5_000, 15.0) == "3 documents, 1.0 kB/s"
    facts.total = 4_000_000
    assert facts.words(4_000, 14.0) == "3 documents, 1.0 kB/s, 1 h 7 min left"
    assert Facts("x", 10, 0.0).words(10, 0.0) == ""


def test_a_new_phase_counts_anew(paths) -> None:
    stream = io.StringIO()
    progress = Progress(paths, 1, 1, show=True, stream=stream)
    progress.enter(Phase.READING, 10)
    progress.counted(7, 7)
    progress.enter(Phase.ENCODING, 0)
    progress.close()
    assert stream.getvalue().splitlines() == ["reading sources (10 B)", "encoding tokens"]
    assert progress._phase.documents == progress._phase.dropped == 0


def all_of(terminal: int) -> str:
    """What was written to the other end, which is closed: the kernel hands it over piece by piece."""
    found = b""
    with suppress(OSError):  # EIO: nothing is left
        while piece := os.read(terminal, 1 << 16):
            found += piece
    return found.decode()


def test_a_terminal_gets_a_bar(paths, monkeypatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        progress = Progress(paths, 1, 1, show=True, stream=terminal)
        progress.enter(Phase.READING, 1_000_000)
        progress.counted(1234, 56)
        progress._last = 0.0
        progress.at(500_000)
        progress.close()
    shown = all_of(ours)
    os.close(ours)
    assert "reading sources" in shown
    assert "1,234 documents, 56 dropped" in shown
    assert "0.5/1.0 MB" in shown
