"""Slots are complete or not; a checkpoint's every bit counts."""

import fcntl
import os
import random
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from adam.contract import checkpoints
from adam.contract.checkpoints import (
    FileEntry,
    checkpoint_name,
    list_checkpoints,
    manifest_of,
    parse_name,
    seal,
    verify,
)
from adam.contract.clock import stamp
from adam.contract.durable import sha256_file
from adam.contract.errors import CheckpointError, DiskError
from adam.contract.slots import SlotHead, SlotWriter, TensorEntry, read_head
from adam.contract.sums import check_sums, page_sum

ENTRIES = [TensorEntry("a", "F32", (3, 4)), TensorEntry("b", "U8", (5,)), TensorEntry("empty", "F32", (0,))]


def head(**changes) -> SlotHead:
    values = {
        "run": "r", "attempt": 1, "token": 1, "sequence": 1, "step": 12, "tokens": 5, "samples": 6, "saves": 0,
        "why": "interval", "parent": "", "fingerprint": "f", "config_digest": "c", "state": {},
    }  # fmt: skip
    return SlotHead(**{**values, **changes})


def write_slot(path: Path, fill: int = 7) -> SlotWriter:
    slot = SlotWriter(path, ENTRIES)
    assert slot.begin()
    for entry in ENTRIES:
        slot.buffer(entry.name)[:] = bytes([fill]) * entry.nbytes
    slot.complete(head(sums={entry.name: page_sum([slot.buffer(entry.name)]) for entry in ENTRIES}))
    return slot


def test_a_slot_is_a_safetensors_file_with_sums_that_hold(tmp_path) -> None:
    write_slot(tmp_path / "slot")
    found = read_head(tmp_path / "slot")
    assert found is not None
    assert found[0].step == 12
    check_sums(tmp_path / "slot", *found)
    tensors = load_file(tmp_path / "slot")
    assert tensors["a"].shape == (3, 4)
    assert tensors["b"].tolist() == [7] * 5


def test_a_slot_that_is_being_written_is_incomplete(tmp_path) -> None:
    slot = write_slot(tmp_path / "slot")
    assert slot.begin()
    assert read_head(tmp_path / "slot") is None
    assert read_head(tmp_path / "missing") is None


def test_a_slot_that_is_being_copied_is_left_alone(tmp_path) -> None:
    slot = write_slot(tmp_path / "slot")
    with (tmp_path / "slot").open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        assert not slot.begin()
        assert read_head(tmp_path / "slot") is not None
    assert slot.begin()


def test_every_flipped_bit_of_the_tensors_is_seen(tmp_path) -> None:
    write_slot(tmp_path / "slot")
    whole = (tmp_path / "slot").read_bytes()
    found = read_head(tmp_path / "slot")
    assert found is not None
    first = min(place.start for place in found[1].values())
    for position in range(first, len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << random.Random(position).randrange(8)
        (tmp_path / "slot").write_bytes(flipped)
        with pytest.raises(CheckpointError, match="not those that were written"):
            check_sums(tmp_path / "slot", *found)


def test_a_truncated_or_senseless_slot_is_an_error_not_a_crash(tmp_path) -> None:
    write_slot(tmp_path / "slot")
    whole = (tmp_path / "slot").read_bytes()
    for length in (9, 100, len(whole) - 1):
        (tmp_path / "slot").write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_head(tmp_path / "slot")
    (tmp_path / "slot").write_bytes(whole[:8] + b"[" * (len(whole) - 8))
    with pytest.raises(CheckpointError, match="no readable header"):
        read_head(tmp_path / "slot")


def test_every_flipped_bit_of_a_slots_header_is_seen(tmp_path) -> None:
    """Nothing else stands between a wrong step in memory and a checkpoint that says it."""
    path = tmp_path / "slot"
    write_slot(path).close()
    data, told = path.read_bytes(), read_head(path)
    assert told is not None
    for place in range(len(data.rstrip(b"\x07").rstrip(b" "))):
        for bit in range(8):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            try:
                found = read_head(path)
            except CheckpointError:
                continue
            # Another spelling of the same, or another place of the tensors, whose checksums then tell.
            assert found is None or found[0] == told[0], (place, bit)
            if found is not None and found[1] != told[1]:
                with pytest.raises(CheckpointError):
                    check_sums(path, *found)


def test_a_slot_of_a_newer_adam_is_not_believed(tmp_path) -> None:
    slot = SlotWriter(tmp_path / "slot", [TensorEntry("w", "U8", (64,))])
    slot.complete(head(schema=9, sums={"w": page_sum([bytes(64)])}))
    slot.close()
    with pytest.raises(CheckpointError, match="schema 9, this Adam knows up to 2: upgrade Adam"):
        read_head(tmp_path / "slot")


def test_a_slot_knows_that_it_was_deleted(tmp_path) -> None:
    slot = SlotWriter(tmp_path / "slot", [TensorEntry("w", "U8", (64,))])
    assert slot.is_there()
    (tmp_path / "slot").unlink()
    assert not slot.is_there()
    SlotWriter(tmp_path / "slot", [TensorEntry("w", "U8", (64,))]).close()
    assert not slot.is_there()
    slot.close()


def test_no_room_for_a_slot_leaves_nothing_behind(tmp_path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DiskError, match="no room for a snapshot"):
        SlotWriter(tmp_path / "slot", ENTRIES)
    assert list(tmp_path.iterdir()) == []


def test_blocks_that_a_slot_lacks_are_allocated_and_those_that_it_has_are_not_gone_through_again(
    tmp_path, monkeypatch
) -> None:
    """A hole that is met while a snapshot is copied into the mapping is no error but SIGBUS: the trainer's death."""
    path, calls = tmp_path / "slot", []
    real = os.posix_fallocate
    monkeypatch.setattr(os, "posix_fallocate", lambda *arguments: (calls.append(arguments), real(*arguments)))
    SlotWriter(path, ENTRIES).close()
    size = path.stat().st_size
    os.truncate(path, 0)
    os.truncate(path, size)
    assert path.stat().st_blocks * 512 < size
    SlotWriter(path, ENTRIES).close()
    assert path.stat().st_blocks * 512 >= size
    SlotWriter(path, ENTRIES).close()
    assert len(calls) == 2


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    directory = tmp_path / checkpoint_name(12, 1)
    directory.mkdir()
    write_slot(directory / "rank-00000.safetensors")
    (directory / "state.json").write_bytes(b'{"step": 12}\n')
    files = tuple(FileEntry(path.name, path.stat().st_size, sha256_file(path)) for path in sorted(directory.iterdir()))
    (directory / checkpoints.MANIFEST).write_bytes(seal(manifest_of(head(), files, stamp())))
    return directory


def test_a_whole_checkpoint_verifies(checkpoint: Path) -> None:
    assert verify(checkpoint).step == 12
    assert list_checkpoints(checkpoint.parent) == [checkpoint]


def test_every_bit_of_every_file_counts(checkpoint: Path) -> None:
    """Every bit of the manifest and of small files, and of a large one the ends and a sample."""
    for path in sorted(checkpoint.iterdir()):
        whole = path.read_bytes()
        for bit in sampled(8 * len(whole)):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            with pytest.raises(CheckpointError):
                verify(checkpoint)
        path.write_bytes(whole)
    verify(checkpoint)


def test_every_length_of_every_file_counts(checkpoint: Path) -> None:
    for path in sorted(checkpoint.iterdir()):
        whole = path.read_bytes()
        cut = [whole[:length] for length in sampled(len(whole))]
        # A manifest ends with its newline: one that is lost or doubled is another manifest too.
        longer = [whole + more for more in (b"\0", b"\n", b" ", b"}", whole, bytes(4096))]
        for data in (*cut, *longer):
            path.write_bytes(data)
            with pytest.raises(CheckpointError):
                verify(checkpoint)
        path.write_bytes(whole)
    verify(checkpoint)


def sampled(count: int) -> list[int]:
    """Numbers below `count`: all of few; of many the first, the last and some between."""
    if count <= 8000:
        return list(range(count))
    return [*range(200), *random.Random(1).sample(range(200, count - 200), 400), *range(count - 200, count)]


def test_a_cut_missing_or_torn_file_is_named(checkpoint: Path) -> None:
    path = checkpoint / "rank-00000.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=r"rank-00000.safetensors has \d+ bytes, the manifest says"):
        verify(checkpoint)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"rank-00000.safetensors is missing"):
        verify(checkpoint)
    (checkpoint / checkpoints.MANIFEST).unlink()
    with pytest.raises(CheckpointError, match="never completed"):
        verify(checkpoint)
    assert list_checkpoints(checkpoint.parent) == []


def test_names_sort_by_step_then_attempt(tmp_path) -> None:
    for name in ("step-00000100-a02", "step-00000020-a10", "step-00000100-a10", ".tmp-step-00000300-a01", "step-9-a1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / checkpoints.MANIFEST).touch()
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "step-00000020-a10",
        "step-00000100-a02",
        "step-00000100-a10",
    ]
    assert parse_name(checkpoint_name(123456789, 100)) == (123456789, 100)
    assert parse_name("latest") is None
