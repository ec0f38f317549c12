"""`adamctl doctor`."""

import os
import socket
import subprocess
import sys

import msgspec
import pytest

from adam.contract import schema
from adam.contract.clock import boot_id
from adam.contract.config import Sinks
from adam.contract.paths import RunPaths
from adam.contract.ram import claim
from adam.contract.records import PowerChange, PowerFile
from adam.contract.states import Exit
from adam.daemon import doctor_machine, doctor_run, doctor_sinks
from adam.daemon.doctor_machine import ask, check_clock, check_versions
from adam.daemon.doctor_memory import check_left_behind, check_remove_ipc, check_shm
from adam.daemon.doctor_run import (
    check_file_system,
    check_flock,
    check_permissions,
    check_processes,
    check_run,
    file_system,
)
from adam.daemon.doctor_sinks import check_power, check_sinks
from adam.daemon.doctor_torch import Surroundings, check_nvml, check_torch
from adam.daemon.doctor_words import Mark


def test_a_healthy_run_directory(world) -> None:
    paths = world.run()
    findings = list(check_run(paths))
    assert {finding.mark for finding in findings} <= {Mark.OK, Mark.WARN}
    assert len(findings) == 6


def test_every_trouble_says_what_to_do(world) -> None:
    none = Surroundings()
    cpu = {"version": "2", "cuda": None, "seen": False}
    gpu = {"version": "2", "cuda": "13", "seen": True, "gpus": ["B200"], "built_for": ["sm_90"], "arches": ["sm_100"]}
    findings = [
        *check_torch({"error": "no module"}, none), *check_torch(cpu, none), *check_torch(gpu, none), check_nvml({"error": "no driver"}),
        check_nvml({"driver": "580", "gpus": ["H200"], "lost": ["GPU 1: GPU is lost"]}),
        check_shm(world.root / "missing"), check_clock(0.0),
    ]  # fmt: skip
    troubled = [finding for finding in findings if finding.mark != Mark.OK]
    assert len(troubled) == 7
    assert all(finding.todo for finding in troubled)
    assert next(check_torch({"error": "x"}, none)).mark == Mark.BAD


def test_whatever_hangs_is_given_up(monkeypatch) -> None:
    assert "no answer" in ask("import time; time.sleep(60)", timeout=0.5)["error"]
    assert "NameError" in ask("nonsense")["error"]
    assert ask("print('{\"a\": 1}')") == {"a": 1}


def test_other_versions_than_tested(tmp_path) -> None:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("# tested\nmsgspec==0.0.1\nno-such-thing==1\n")
    found = list(check_versions(constraints))
    assert [finding.mark for finding in found] == [Mark.WARN]
    assert "tested: 0.0.1" in found[0].what
    assert doctor_machine.CONSTRAINTS.exists()


def test_network_file_systems_are_found(tmp_path, monkeypatch) -> None:
    mounts = "1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:5 / /data\\040two rw shared:1 - nfs4 server:/x rw\n"
    assert file_system(doctor_run.Path("/home/x"), mounts) == "ext4"
    assert file_system(doctor_run.Path("/data two/run"), mounts) == "nfs4"
    monkeypatch.setattr(doctor_run, "file_system", lambda place, mounts: "nfs4")
    assert check_file_system(tmp_path).mark == Mark.BAD


def test_locks_that_do_not_lock_are_found(tmp_path, monkeypatch) -> None:
    assert check_flock(tmp_path).mark == Mark.OK
    monkeypatch.setattr(doctor_run.fcntl, "flock", lambda fd, how: None)
    assert check_flock(tmp_path).mark == Mark.BAD
    assert list(tmp_path.iterdir()) == []


def test_orphans_are_found(world) -> None:
    paths = world.run()
    sleeper = subprocess.Popen(["sleep", "60"], env={**os.environ, "ADAM_SUPERVISED": str(paths.root)})
    try:
        world.wait_for("the sleeper", lambda: world.processes(paths))
        finding = check_processes(paths)
        assert finding.mark == Mark.BAD
        assert "adamctl down" in finding.todo
    finally:
        sleeper.kill()
        sleeper.wait()
    assert check_processes(paths).mark == Mark.OK


def test_a_place_that_is_a_file_is_bad(world) -> None:
    (world.root / "file").write_text("")
    assert check_permissions(type(world.run())(world.root / "file" / "run")).mark == Mark.BAD


def test_sinks_that_lack_a_package_or_a_port_are_found(world, monkeypatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sinks = Sinks(prometheus_port=port, tensorboard=True, trackio="p")
        paths = world.run(config=msgspec.structs.replace(world.config(), sinks=sinks))
        monkeypatch.setitem(doctor_sinks.MODULES, "trackio", "no_such_module")
        found = list(check_sinks(paths))
    assert [finding.mark for finding in found] == [Mark.WARN, Mark.OK, Mark.WARN]
    assert f"port {port}" in found[0].what and str(paths.tensorboard) in found[1].what
    assert found[2].todo == f"{sys.executable} -m pip install trackio"
    assert next(check_sinks(paths)).line() == f"ok    metrics go to prometheus: http://127.0.0.1:{port}/metrics"
    world.status(paths)  # a watchdog lives: the port is its own
    with socket.create_server(("127.0.0.1", port)):
        assert next(check_sinks(paths)).mark == Mark.OK
    assert list(check_sinks(world.run("other"))) == []


def test_gpus_that_a_killed_run_left_held_down_are_found(world) -> None:
    paths = world.run()
    assert list(check_power(paths)) == []
    gpus = {"GPU-1": PowerChange(1, 700_000, (665_000, 630_000))}
    schema.save(paths.power, PowerFile(boot_id=boot_id(), gpus=gpus))
    (finding,) = check_power(paths)
    assert "GPU 1 may still be held down to 630 W (of 700 W)" in finding.what and "-i 1 -pl 700" in finding.todo
    world.status(paths)  # a watchdog lives, which knows
    assert list(check_power(paths)) == []
    paths.status.unlink()
    schema.save(paths.power, PowerFile(boot_id="an earlier one", gpus=gpus))
    assert list(check_power(paths)) == []


@pytest.mark.timeout(180)
def test_the_command_ends_with_its_verdict(world) -> None:
    world.run()
    done = world.adamctl("doctor", "--run", "run", expect=None)
    marks = {line.split()[0] for line in done.stdout.splitlines()}
    assert done.returncode == (Exit.FAILED if "bad" in marks else Exit.OK), done.stdout + done.stderr
    assert sys.executable in done.stdout


def test_what_runs_have_in_memory(world, monkeypatch) -> None:
    (world.root / "memory").mkdir()
    monkeypatch.setenv("ADAM_SHM", str(world.root / "memory"))
    paths, other = world.run(), world.root / "other"
    other.mkdir()
    claim(RunPaths(other))
    gone = claim(paths)
    assert [finding.mark for finding in check_left_behind(RunPaths(other))] == [Mark.OK]
    paths.root.rename(world.root / "moved")
    (finding,) = [finding for finding in check_left_behind(RunPaths(other)) if finding.mark == Mark.WARN]
    assert str(gone) in finding.what and "is gone" in finding.what


def test_logind_and_shared_memory(tmp_path) -> None:
    settings = tmp_path / "logind.conf"
    assert not list(check_remove_ipc(0, tmp_path, settings))
    assert not list(check_remove_ipc(1000, tmp_path / "no seats", settings))
    assert [finding.mark for finding in check_remove_ipc(1000, tmp_path, settings)] == [Mark.WARN]
    settings.write_text("[Login]\nRemoveIPC = no\n")
    assert [finding.mark for finding in check_remove_ipc(1000, tmp_path, settings)] == [Mark.OK]
