"""The trainer's template: copies that are the launcher's own children, and what becomes of one that fails."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from adam.contract import schema
from adam.contract.birth import Birth
from adam.contract.lease import take_lease, write_lease
from adam.contract.output import memory_for_last_words, read_last_words
from adam.contract.process import state_letter
from adam.contract.records import Plan
from adam.watchdog.act import Hands
from adam.watchdog.policy_words import Launch
from adam.watchdog.template import Template, begin

WITHOUT_TORCH = """
import os, sys
from adam.contract.output import tell_launcher
from adam.trainer.template import await_birth
if await_birth(int(sys.argv[1])):
    print("born", os.environ["ADAM_ATTEMPT"], os.environ["ADAM_TOKEN"], os.getpgid(0) == os.getpid(), flush=True)
    tell_launcher("the copy's words")
    sys.exit(7)
"""


@pytest.fixture
def make():
    made = []

    def template(code: str) -> Template:
        made.append(Template([sys.executable, "-P", "-c", code]))
        return made[-1]

    yield template
    for one in made:
        one.end()


@pytest.fixture
def fds(tmp_path: Path):
    opened = [os.open(tmp_path / "lease", os.O_RDWR | os.O_CREAT), os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)]
    opened.append(memory_for_last_words())
    yield opened
    for fd in opened:
        os.close(fd)


def birth() -> Birth:
    return Birth(attempt=3, token=7, launcher_pid=os.getpid())


def ready(template: Template) -> Template:
    deadline = time.monotonic() + 30
    while not template.ready:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return template


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_copies_are_children_that_begin_when_told(make, fds, tmp_path):
    template = ready(make(WITHOUT_TORCH))
    for _ in range(3):
        pid, gate = template.copy(birth(), *fds)
        assert (
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
            and not (tmp_path / "log").stat().st_size
        )
        begin(gate)
        assert ended(pid) == 7
        assert (tmp_path / "log").read_text() == "born 3 7 True\n" and read_last_words(fds[2]) == "the copy's words"
        os.ftruncate(fds[1], 0)
        os.lseek(fds[1], 0, os.SEEK_SET)


def test_a_copy_that_is_given_up_never_begins(make, fds, tmp_path):
    template = ready(make(WITHOUT_TORCH))
    pid, gate = template.copy(birth(), *fds)
    os.close(gate)
    assert ended(pid) == 0 and (tmp_path / "log").read_text() == "" and template.ready


def test_a_copy_outlives_its_template_and_not_its_launcher(make, fds, tmp_path):
    template = ready(make(WITHOUT_TORCH))
    pid, gate = template.copy(birth(), *fds)
    template.end()
    begin(gate)
    assert ended(pid) == 7
    launcher = subprocess.Popen(
        [sys.executable, "-P", "-c", LAUNCHER, WITHOUT_TORCH, str(tmp_path)], stdout=subprocess.PIPE
    )
    with launcher:
        copy = int(launcher.stdout.readline())
        launcher.kill()
    deadline = time.monotonic() + 10
    while state_letter(copy) not in (None, "Z"):
        assert time.monotonic() < deadline, "the copy outlives its launcher"
        time.sleep(0.01)


LAUNCHER = """
import os, sys, time
from pathlib import Path
from adam.contract.birth import Birth
from adam.contract.process import state_letter
from adam.contract.records import Plan
from adam.watchdog.act import Hands
from adam.watchdog.policy_words import Launch
from adam.watchdog.template import Template, begin
template = Template([sys.executable, "-P", "-c", sys.argv[1].replace("sys.exit(7)", "import time; time.sleep(60)")])
while not template.ready:
    time.sleep(0.01)
fds = [os.open(Path(sys.argv[2]) / "lease", os.O_RDWR), *(os.open(os.devnull, os.O_RDWR) for _ in range(2))]
pid, gate = template.copy(Birth(attempt=1, token=1, launcher_pid=os.getpid()), *fds)
begin(gate)
print(pid, flush=True)
time.sleep(60)
"""


def test_no_process_is_left_as_the_parent_of_orphans(make, fds):
    template = ready(make(WITHOUT_TORCH))
    pid, gate = template.copy(birth(), *fds)
    begin(gate)
    ended(pid)
    code = "import os; os.fork() and os._exit(0); import time; time.sleep(0.2); print(os.getppid())"
    orphans_parent = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(orphans_parent) != os.getpid()


@pytest.mark.parametrize(
    "fault",
    [
        "import time; s.send(b'ready'); time.sleep(60)",
        "s.send(b'ready'); s.recv(4096); s.send(b'1')",
        "s.send(b'ready'); s.recv(4096); s.send(b'x')",
        "s.send(b'ready'); s.recv(4096)",
    ],
    ids=["never answers", "names another's process", "no number", "dies"],
)
def test_a_template_that_fails_is_ended_and_there_is_no_copy(make, fds, fault):
    template = ready(make(f"import socket, sys; s = socket.socket(fileno=int(sys.argv[1])); {fault}"))
    assert template.copy(birth(), *fds) is None
    assert not template.ready


def test_a_template_that_was_killed_or_can_not_start_is_not_ready(make, fds):
    killed = ready(make(WITHOUT_TORCH))
    os.kill(killed._process.pid, signal.SIGKILL)
    killed._process.wait()
    assert not killed.ready
    absent = Template(["/nonexistent/python"])
    assert not absent.ready and absent.copy(birth(), *fds) is None
    absent.end()


class Counted:
    """In place of supervisord: what it was asked to start."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def start(self, name: str) -> None:
        self.started.append(name)


def test_without_descriptors_there_is_no_template_and_no_copy(make, fds, monkeypatch):
    def refused(*args: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    template = ready(make(WITHOUT_TORCH))
    with monkeypatch.context() as context:
        context.setattr(os, "pipe", refused)
        assert template.copy(birth(), *fds) is None
    monkeypatch.setattr(socket, "socketpair", refused)
    assert not make(WITHOUT_TORCH).ready


def test_a_launcher_that_takes_the_plan_up_at_once_is_not_started_twice(paths, monkeypatch):
    lease_fd, lease = take_lease(paths, "trainer", token=6, attempt=2)
    waits = {"launcher_pid": 0, "waiting_pid": lease.launcher_pid, "waiting_ticks": lease.launcher_ticks}
    write_lease(lease_fd, msgspec.structs.replace(lease, **waits))
    save = schema.save_reserved

    def save_and_take_up(path: Path, record: schema.Record) -> None:
        save(path, record)
        write_lease(lease_fd, lease)

    monkeypatch.setattr(schema, "save_reserved", save_and_take_up)
    supervisor = Counted()
    Hands(paths, supervisor, None, None, None, None).do(Launch(Plan(program="trainer", attempt=3, token=7)), 0.0)
    assert not supervisor.started
    os.close(lease_fd)


@pytest.mark.parametrize(
    ("change", "by_supervisord"),
    [
        ({}, False),
        ({"program": "forge"}, True),
        ({"waiting_ticks": 1}, True),  # it is dead, another process has its number
        ({"run": "of a copied directory"}, True),
        ({"waiting_pid": 0}, True),
    ],
    ids=["waits", "for another program", "dead", "another run's", "none"],
)
def test_a_plan_is_left_to_a_launcher_that_waits_and_else_to_supervisord(paths, change, by_supervisord):
    lease_fd, lease = take_lease(paths, "trainer", token=6, attempt=2)
    waits = {"launcher_pid": 0, "waiting_pid": lease.launcher_pid, "waiting_ticks": lease.launcher_ticks}
    write_lease(lease_fd, msgspec.structs.replace(lease, **{**waits, **change}))
    os.close(lease_fd)
    supervisor = Counted()
    hands = Hands(paths, supervisor, None, None, None, None)
    hands.do(Launch(Plan(program="trainer", attempt=3, token=7)), 0.0)
    assert bool(supervisor.started) == by_supervisord and not hands.launch_error
    assert schema.load(paths.plan, Plan).token == 7
