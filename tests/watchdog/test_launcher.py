"""The launcher as a process: what it says of how its program ended, and that nobody outlives anybody."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from adam.contract import schema
from adam.contract.clock import boot_id, boottime_ns
from adam.contract.lease import lease_is_held, read_lease, take_lease
from adam.contract.process import alive, start_ticks
from adam.contract.records import ExitReport, Plan
from adam.watchdog.beat import BeatWriter, read_beat
from adam.watchdog.launcher import FrozenWatchdog

Launch = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def launch(paths) -> Iterator[Launch]:
    started = []

    def start(code: str, program: str = "trainer", plan_for: str = "trainer") -> "subprocess.Popen[bytes]":
        schema.save(paths.plan, Plan(program=plan_for, attempt=3, token=7))
        command = [sys.executable, "-P", "-m", "adam.watchdog.launcher", "--run", str(paths.root), program]
        with paths.log("launcher").open("ab") as log:
            started.append(subprocess.Popen([*command, "--", sys.executable, "-c", code], stderr=log))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def report(paths) -> ExitReport:
    found = schema.load(paths.exit_report("trainer"), ExitReport)
    assert found is not None
    return found


def child(paths) -> int:
    lease = read_lease(paths)
    return lease.child_pid if lease and lease.child_ticks else 0


def test_exit_code_and_last_words(paths, launch):
    code = "import sys; print('x' * 999); [print('line', n) for n in range(50)]; print('last word', file=sys.stderr); sys.exit(7)"
    paths.log("trainer").write_text("of an earlier attempt\n")
    assert launch(code).wait(20) == 0
    told = report(paths)
    assert (told.code, told.signal, told.attempt, told.token) == (7, None, 3, 7)
    assert told.tail[-1] == "last word" and len(told.tail) == 20 and told.cpu_s > 0 and told.max_rss_bytes > 1e6
    assert not lease_is_held(paths)


def test_the_tail_is_of_this_attempt_only(paths, launch):
    paths.log("trainer").write_text("of an earlier attempt\n")
    launch("print('y' * 999)").wait(20)
    assert len(report(paths).tail) == 1 and len(report(paths).tail[0]) < 450


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_true_signal(paths, launch, number):
    launch(f"import os; os.kill(os.getpid(), {int(number)})").wait(20)
    told = report(paths)
    assert (told.code, told.signal, told.oom_killed) == (None, number, False)


def test_forwards_a_stop(paths, launch, await_):
    code = (
        "import signal, sys, time\n"
        "def end(*_): print('asked'); sys.exit(10)\n"
        "signal.signal(signal.SIGTERM, end); print('ready', flush=True); time.sleep(60)"
    )
    process = launch(code)
    await_(lambda: paths.log("trainer").exists() and "ready" in paths.log("trainer").read_text())
    process.terminate()
    assert process.wait(20) == 0
    assert report(paths).code == 10 and report(paths).tail[-1] == "asked"


def files_of(pid: int) -> set[str]:
    """What a process has open, that opens and closes files meanwhile."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(str(link.readlink()))
    return found


def test_killed_launcher_takes_its_program_along(paths, launch, await_):
    process = launch("import time; time.sleep(60)")
    pid = await_(lambda: child(paths))
    ticks = start_ticks(pid)
    assert lease_is_held(paths)
    # Where the program, for whatever reason, outlived its launcher, the lease would still be held.
    assert str(paths.lease) in files_of(pid)
    process.kill()
    await_(lambda: not alive(pid, ticks), 5)
    await_(lambda: not lease_is_held(paths), 5)


def test_children_of_the_program_end_with_it(paths, launch, await_):
    code = "import subprocess, sys, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
    launch(code)
    pid = await_(lambda: child(paths))
    grandchild = int(await_(lambda: paths.log("trainer").read_text().strip()))
    ticks = start_ticks(grandchild)
    os.kill(pid, signal.SIGKILL)
    await_(lambda: not alive(grandchild, ticks), 5)


def test_no_twin(paths, launch):
    schema.save(paths.plan, Plan(program="trainer", attempt=3, token=7))
    fd, _ = take_lease(paths, "trainer", 5, 1)
    try:
        assert launch("print(1)").wait(20) == 9  # Exit.BUSY
        assert "holds the lease" in paths.log("launcher").read_text()
    finally:
        os.close(fd)
    assert not paths.exit_report("trainer").exists()


def test_a_look_at_the_lease_is_waited_out(paths, launch):
    fd, _ = take_lease(paths, "trainer", 5, 1)
    process = launch("print(1)")
    time.sleep(0.7)
    os.close(fd)
    assert process.wait(20) == 0 and report(paths).code == 0


def test_plan_of_another_program(launch):
    assert launch("print(1)", plan_for="forge").wait(20) == 2


def test_a_program_that_is_not_there(paths):
    schema.save(paths.plan, Plan(program="trainer", attempt=3, token=7))
    command = [
        sys.executable,
        "-P",
        "-m",
        "adam.watchdog.launcher",
        "--run",
        str(paths.root),
        "trainer",
        "--",
        "/no/such",
    ]
    assert subprocess.run(command, timeout=20, check=False).returncode == 0
    assert report(paths).code == 127 and "could not be started" in report(paths).tail[0]


def frozen_beat(paths, pid: int, age_s: float, replaced: bool = True) -> None:
    text = f"{pid} {start_ticks(pid)} {int(replaced)} {boot_id()} {boottime_ns() - int(age_s * 1e9)}"
    paths.beat.write_text(text)


def test_a_frozen_watchdog_is_killed_and_nobody_else(paths):
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        frozen_beat(paths, sleeper.pid, 31)
        late = FrozenWatchdog(paths)
        late._last_look -= int(60e9)  # the machine slept: everybody's beat is old
        late.look()
        frozen_beat(paths, sleeper.pid, 31, replaced=False)  # systemd's business
        FrozenWatchdog(paths).look()
        frozen_beat(paths, sleeper.pid, 20)
        FrozenWatchdog(paths).look()
        paths.beat.write_text(f"{sleeper.pid} 1 1 {boot_id()} 5")  # another process had this pid
        FrozenWatchdog(paths).look()
        assert sleeper.poll() is None
        frozen_beat(paths, sleeper.pid, 31)
        FrozenWatchdog(paths).look()
        assert sleeper.wait(5) == -signal.SIGKILL
    finally:
        sleeper.kill()
        sleeper.wait()


def test_beat_reads_back(paths):
    writer = BeatWriter(paths.beat, start_ticks(os.getpid()) or 0, replaced=True)
    writer.beat()
    beat = read_beat(paths.beat)
    assert beat is not None and beat.pid == os.getpid() and beat.replaced and beat.silent_s() < 5
    writer.close()
    paths.beat.write_bytes(b"\xff")
    assert read_beat(paths.beat) is None
