"""One holder at a time, for as long as it or a child of it lives; processes are known by pid and start time."""

import fcntl
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from adam.contract import process
from adam.contract.errors import BusyError
from adam.contract.lease import child_lives, launcher_lives, lease_is_held, read_lease, take_lease, write_lease
from adam.contract.paths import RunPaths


@pytest.fixture
def paths(tmp_path) -> RunPaths:
    (tmp_path / "run").mkdir()
    return RunPaths(tmp_path)


def test_a_second_holder_is_refused_by_name(paths: RunPaths) -> None:
    assert not lease_is_held(paths)
    fd, lease = take_lease(paths, "trainer", token=5, attempt=2)
    assert lease_is_held(paths)
    assert read_lease(paths) == lease
    with pytest.raises(BusyError, match=f"trainer \\(process {os.getpid()}\\) holds the lease"):
        take_lease(paths, "forge", token=6, attempt=3)
    os.close(fd)
    assert not lease_is_held(paths)


def test_somebody_who_only_looks_is_not_taken_for_a_holder(paths: RunPaths) -> None:
    looking = os.open(paths.lease, os.O_RDWR | os.O_CREAT)
    fcntl.flock(looking, fcntl.LOCK_EX)
    done = threading.Timer(0.05, os.close, [looking])
    done.start()
    fd, _ = take_lease(paths, "trainer", token=1, attempt=1)
    os.close(fd)
    done.join()


def test_an_older_token_is_refused_after_a_newer_one(paths: RunPaths) -> None:
    fd, _ = take_lease(paths, "trainer", token=5, attempt=2)
    os.close(fd)
    with pytest.raises(BusyError, match="token 5, this process has 4"):
        take_lease(paths, "trainer", token=4, attempt=2)
    fd, lease = take_lease(paths, "trainer", token=5, attempt=2)
    write_lease(fd, lease)
    os.close(fd)


def test_the_lease_lasts_while_a_child_has_it(paths: RunPaths) -> None:
    fd, _ = take_lease(paths, "trainer", token=1, attempt=1)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[fd]) as child:
        os.close(fd)
        assert lease_is_held(paths)
        child.communicate(b"\n")
    assert not lease_is_held(paths)


def test_a_process_is_known_by_pid_and_start() -> None:
    ticks = process.start_ticks(os.getpid())
    assert ticks is not None
    assert process.alive(os.getpid(), ticks)
    assert not process.alive(os.getpid(), ticks - 1)
    with subprocess.Popen([sys.executable, "-c", "pass"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert process.start_ticks(child.pid) is None  # a zombie is dead
        assert process.state_letter(child.pid) == "Z"
    assert process.state_letter(child.pid) is None


def test_processes_are_found_by_their_environment() -> None:
    mark = f"test-{os.getpid()}"
    environment = {**os.environ, "ADAM_SUPERVISED": mark}
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"], stdin=-1, stdout=-1, env=environment
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert process.processes_with("ADAM_SUPERVISED", mark) == [child.pid]
        child.communicate(b"\n")
    assert process.processes_with("ADAM_SUPERVISED", mark) == []


def test_a_child_dies_with_its_parent() -> None:
    inner = "from adam.contract.process import die_with_parent; die_with_parent(); print('ready', flush=True); import time; time.sleep(60)"
    outer = (
        f"import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {inner!r}], stdout=subprocess.PIPE);"
        "child.stdout.readline(); print(child.pid, flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", outer], stdin=-1, stdout=-1) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        pidfd = os.pidfd_open(child)
        parent.kill()
    import select

    readable, _, _ = select.select([pidfd], [], [], 10)
    assert readable, "the child outlived its parent"
    os.close(pidfd)


def test_whom_a_copied_lease_names_is_none_of_the_copys(paths: RunPaths, tmp_path: Path) -> None:
    fd, lease = take_lease(paths, "trainer", token=5, attempt=2)
    os.close(fd)
    assert launcher_lives(paths, lease) and not child_lives(paths, lease)
    shutil.copytree(paths.root, tmp_path / "copy")
    copy = RunPaths(tmp_path / "copy")
    copied = read_lease(copy)
    assert copied == lease and not launcher_lives(copy, copied)
    rebooted = msgspec.structs.replace(lease, stamp=msgspec.structs.replace(lease.stamp, boot_id="another"))
    assert not launcher_lives(paths, rebooted)


def test_a_lease_of_zeros_is_held_by_nobody(paths: RunPaths) -> None:
    paths.lease.write_bytes(bytes(1024))
    assert read_lease(paths) is None
    fd, _ = take_lease(paths, "trainer", token=1, attempt=1)
    os.close(fd)
