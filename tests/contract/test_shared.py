"""The mapped words: read whole or not at all, by readers in other processes too."""

import random

import pytest

from adam.contract.errors import SchemaError
from adam.contract.shared import Control, Pulse, SharedWord, read_once


def test_what_is_written_is_read(tmp_path) -> None:
    assert read_once(tmp_path / "pulse-0", Pulse) is None
    writer: SharedWord[Pulse] = SharedWord(tmp_path / "pulse-0", Pulse, write=True)
    assert read_once(tmp_path / "pulse-0", Pulse) is None
    pulse = Pulse(pid=7, step=2**63, phase=3, progress=9)
    writer.write(pulse)
    assert read_once(tmp_path / "pulse-0", Pulse) == pulse


def test_a_half_written_word_is_not_believed(tmp_path) -> None:
    path = tmp_path / "control"
    writer: SharedWord[Control] = SharedWord(path, Control, write=True)
    writer.write(Control(token=3, pause=1))
    whole = path.read_bytes()
    for position in range(8, len(whole)):
        torn = bytearray(whole)
        torn[position] ^= random.Random(position).randrange(1, 256)
        path.write_bytes(torn)
        assert read_once(path, Control) is None, position


def test_an_old_value_outlives_its_writer_and_a_new_writer_goes_on(tmp_path) -> None:
    first: SharedWord[Control] = SharedWord(tmp_path / "control", Control, write=True)
    first.write(Control(token=3))
    first.close()
    second: SharedWord[Control] = SharedWord(tmp_path / "control", Control, write=True)
    assert second.read() == Control(token=3)


def test_a_newer_schema_is_refused(tmp_path) -> None:
    writer: SharedWord[Control] = SharedWord(tmp_path / "control", Control, write=True)
    writer.write(Control())
    data = bytearray((tmp_path / "control").read_bytes())
    data[4] = 9
    (tmp_path / "control").write_bytes(data)
    with pytest.raises(SchemaError, match="schema 9"):
        read_once(tmp_path / "control", Control)
