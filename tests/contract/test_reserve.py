"""Files that are replaced on a disk without a byte left; on a real one, for what is allocated can't be made up."""

import errno
import os
import random

import pytest
from small_disk import SmallDisk, small_disk

from adam.contract import reserve
from adam.contract.reserve import BLOCK, ROOM, make_reserve, replace_reserved, spares


@pytest.fixture
def disk(tmp_path):
    with small_disk(tmp_path / "disk", 4) as disk:
        yield disk


@pytest.mark.parametrize("exchanges", [True, False], ids=["exchange", "rename"])
def test_a_full_disk_takes_the_file_again_and_again(disk: SmallDisk, monkeypatch, exchanges: bool) -> None:
    """Others take each byte that is let go of. Where names can't be exchanged, the second spare is the last."""
    if not exchanges:
        monkeypatch.setattr(reserve, "exchange", lambda one, other: one.rename(other))
    path = disk.root / "status.json"
    replace_reserved(path, b"before")
    chance = random.Random(0)
    for number in range(12 if exchanges else 2):
        disk.fill()
        data = b"%d " % number + b"x" * chance.randrange(ROOM - 100)
        replace_reserved(path, data)
        assert path.read_bytes().rstrip() == data
    disk.free()
    replace_reserved(path, b"there is room")
    assert path.read_bytes() == b"there is room"
    assert all(spare.stat().st_blocks * 512 >= ROOM for spare in spares(path))


def test_the_first_file_of_all_on_a_disk_that_filled_up_meanwhile(disk: SmallDisk) -> None:
    path = disk.root / "exit.json"
    make_reserve(path)
    disk.fill()
    for number in range(3):
        replace_reserved(path, b"%d" % number)
        assert path.read_bytes().rstrip() == b"%d" % number


def test_without_a_reserve_the_old_file_stays(disk: SmallDisk) -> None:
    path = disk.root / "status.json"
    path.write_bytes(b"old")
    disk.fill()
    with pytest.raises(OSError, match="No space left"):
        replace_reserved(path, b"x" * 2 * BLOCK)
    assert path.read_bytes() == b"old"


def test_what_is_too_long_for_the_reserve_leaves_the_old_file(disk: SmallDisk) -> None:
    path = disk.root / "status.json"
    replace_reserved(path, b"old")
    disk.fill()
    with pytest.raises(OSError, match="No space left"):
        replace_reserved(path, b"x" * (ROOM + 1))
    assert path.read_bytes() == b"old"
    replace_reserved(path, b"short")
    assert path.read_bytes().rstrip() == b"short"


def test_another_error_than_a_full_disk_is_raised(tmp_path, monkeypatch) -> None:
    path = tmp_path / "status.json"
    replace_reserved(path, b"old")

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output error"):
        replace_reserved(path, b"new")
    assert path.read_bytes() == b"old"


def test_the_reserve_grows_with_the_file(tmp_path) -> None:
    path = tmp_path / "status.json"
    replace_reserved(path, b"x" * 3 * ROOM)
    assert all(spare.stat().st_blocks * 512 >= 6 * ROOM for spare in spares(path))
