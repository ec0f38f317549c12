"""Pins and holds: what the keeper must know before it deletes."""

import os
import subprocess
import sys

import pytest

from adam.contract.checkpoints import MANIFEST
from adam.contract.errors import CheckpointError, DataError, SchemaError
from adam.contract.paths import RunPaths
from adam.contract.pins import change_pins, held, read_pins, with_pin, without_pin

ADD = """
import sys
from pathlib import Path
from adam.contract.paths import RunPaths
from adam.contract.pins import change_pins, with_pin
for number in range(20):
    change_pins(RunPaths(Path(sys.argv[1])), lambda pins: with_pin(pins, f"{sys.argv[2]}-{number}", "human"))
"""


@pytest.fixture
def paths(tmp_path) -> RunPaths:
    paths = RunPaths(tmp_path)
    paths.checkpoints.mkdir()
    return paths


def test_each_requester_takes_back_only_its_own() -> None:
    pins = with_pin(with_pin(with_pin({}, "a", "upload"), "a", "human"), "b", "human")
    assert with_pin(pins, "a", "human") == pins == {"a": ("human", "upload"), "b": ("human",)}
    assert without_pin(pins, "a", "human") == {"a": ("upload",), "b": ("human",)}
    assert without_pin(without_pin(pins, "b", "human"), "c", "human") == {"a": ("human", "upload")}


def test_changes_of_two_processes_are_both_kept(paths) -> None:
    command = [sys.executable, "-P", "-c", ADD, str(paths.root)]
    writers = [subprocess.Popen([*command, name]) for name in ("a", "b")]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert set(read_pins(paths)) == {f"{name}-{number}" for name in ("a", "b") for number in range(20)}


def test_what_can_not_be_read_is_never_taken_for_nothing(paths) -> None:
    assert read_pins(paths) == {}
    for text in (b"", b"{", b"[]", b'{"pins": {"a": "human"}}', b"\xff"):
        paths.pins.write_bytes(text)
        with pytest.raises(DataError, match=r"pins\.json can't be read"):
            read_pins(paths)
        with pytest.raises(DataError):
            change_pins(paths, lambda pins: pins)
        assert paths.pins.read_bytes() == text
    paths.pins.write_bytes(b'{"schema": 9}')
    with pytest.raises(SchemaError):
        read_pins(paths)
    paths.pins.unlink()
    paths.pins.mkdir()
    with pytest.raises(DataError, match="directory"):
        read_pins(paths)


def test_a_hold_is_of_a_checkpoint_that_is_there(paths) -> None:
    checkpoint = paths.checkpoints / "step-00000010-a01"
    for make in (lambda: None, checkpoint.mkdir):
        make()
        with pytest.raises(CheckpointError, match="there is no checkpoint"), held(checkpoint):
            pytest.fail("held")
    (checkpoint / MANIFEST).write_bytes(b"")
    before = len(os.listdir("/proc/self/fd"))
    with held(checkpoint), held(checkpoint):
        pass
    assert len(os.listdir("/proc/self/fd")) == before
