"""The run's directory in shared memory: whose it is, whether there is room, and what is left behind."""

import os
from pathlib import Path

import pytest

from adam.contract import ram
from adam.contract.errors import DiskError
from adam.contract.paths import RunPaths


@pytest.fixture(autouse=True)
def own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "shm"
    place.mkdir()
    monkeypatch.setenv("ADAM_SHM", str(place))
    return place


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    (tmp_path / "run").mkdir()
    return RunPaths(tmp_path / "run")


def test_a_run_has_one_directory_and_finds_it_again(paths: RunPaths, own_memory: Path) -> None:
    assert ram.claim(paths) == ram.claim(paths) == paths.ram
    assert paths.ram.parent == own_memory
    assert oct(paths.ram.stat().st_mode)[-3:] == "700"
    assert [(found.path, found.root, found.stale) for found in ram.found_directories()] == [
        (paths.ram, str(paths.root), "")
    ]
    assert ram.remove_stale() == []


def test_a_directory_that_others_can_write_is_refused(paths: RunPaths) -> None:
    paths.ram.mkdir(mode=0o777)
    paths.ram.chmod(0o777)
    with pytest.raises(DiskError, match="not a directory of ours alone"):
        ram.claim(paths)


@pytest.mark.parametrize("what", ["gone", "replaced", "nameless"])
def test_what_nobody_will_read_is_removed(paths: RunPaths, tmp_path: Path, what: str) -> None:
    place = ram.claim(paths)
    (place / "slot-0").mkdir()
    (place / "slot-0" / "rank-00000.safetensors").write_bytes(bytes(10_000))
    if what == "nameless":
        (place / ram.OWNER).unlink()
        assert ram.remove_stale() == []  # it may just be being made
        os.utime(place, (0, 0))
    else:
        paths.root.rename(tmp_path / "elsewhere")
    if what == "replaced":
        paths.root.mkdir()
    (found,) = ram.found_directories()
    assert found.stale and found.size >= 10_000
    assert ram.remove_stale() == [found]
    assert not place.exists()


def test_other_directories_are_left_alone(own_memory: Path) -> None:
    (own_memory / "somebody-else").mkdir()
    assert ram.remove_stale() == []
    assert (own_memory / "somebody-else").exists()


def test_room_is_what_the_tightest_limit_leaves(own_memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ram.no_room(1000) == ""
    monkeypatch.setattr(ram, "cgroup_left", lambda: 1000)
    assert ram.no_room(800) == ""
    assert "801 B are needed and the memory limit of this cgroup has 1.0 kB left" in ram.no_room(801)
    own_memory.rmdir()
    assert "is not there" in ram.no_room(1)


def test_the_tightest_cgroup_counts(tmp_path: Path) -> None:
    inner = tmp_path / "cgroup" / "a" / "b"
    inner.mkdir(parents=True)
    own = tmp_path / "own"
    own.write_text("0::/a/b\n")
    assert ram.cgroup_left(tmp_path / "cgroup", own) == 1 << 62
    (inner / "memory.max").write_text("max\n")
    (inner.parent / "memory.max").write_text("5000\n")
    (inner.parent / "memory.current").write_text("2000\n")
    assert ram.cgroup_left(tmp_path / "cgroup", own) == 3000
    assert ram.cgroup_left(tmp_path / "cgroup", tmp_path / "absent") == 1 << 62


def test_what_somebody_holds_is_never_removed_and_a_torn_name_is_none(paths: RunPaths, tmp_path: Path) -> None:
    """A run of another container shares this memory: its directory is not to be seen from here."""
    place = ram.claim(paths)
    held = ram.hold(place)
    paths.root.rename(tmp_path / "elsewhere")
    assert ram.remove_stale() == [] and place.exists() and not ram.found_directories()[0].stale
    os.close(held)
    moved = RunPaths(tmp_path / "elsewhere")
    assert moved.ram == place and ram.remove_stale(moved) == [], "a run that was moved finds its own memory"
    (place / ram.OWNER).write_text("")
    assert ram.remove_stale() == [], "a name that is just being written"
    os.utime(place, (0, 0))
    assert [found.path for found in ram.remove_stale()] == [place]
