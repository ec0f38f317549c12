"""The trainer's template: a process that has imported torch and makes copies of itself (fork), one for each attempt.

It computes nothing, so it has no threads that a copy would lack, and no CUDA. `contract/birth.py` says how a launcher speaks to it.
"""

import os
import select
import socket

import msgspec

from adam.contract.birth import FDS, GO, LONGEST, READY, Birth
from adam.contract.errors import UsageError
from adam.contract.output import LAST_WORDS
from adam.contract.process import die_with_parent, name_process

NAME = "adam-template"


def await_birth(number: int) -> bool:
    """Serve the launcher behind socket `number`. True in each copy, where its attempt is to begin; False where the launcher has gone.

    Raises UsageError where there is no such socket.
    """
    name_process(NAME)
    try:
        launcher = socket.socket(fileno=number)
        launcher.send(READY)
    except OSError as error:
        raise UsageError(f"--template {number}: {error.strerror}", "only the launcher starts a template") from None
    while True:
        message, fds, _, _ = socket.recv_fds(launcher, LONGEST, len(FDS))
        if not message:
            return False
        pid = _fork_twice()
        if pid == 0:
            launcher.close()
            _begin(msgspec.json.decode(message, type=Birth), dict(zip(FDS, fds, strict=True)))
            return True
        for fd in fds:
            os.close(fd)
        launcher.send(str(pid).encode())


def _fork_twice() -> int:
    """0 in the copy, its pid here. Its parent has ended: it belongs to whoever takes orphans in, which the launcher does."""
    theirs, ours = os.pipe()
    between = os.fork()
    if between == 0:
        pid = os.fork()
        if pid == 0:
            os.close(theirs)
            os.close(ours)
            return 0
        os.write(ours, str(pid).encode())
        os._exit(0)
    os.close(ours)
    os.waitpid(between, 0)
    pid = int(os.read(theirs, LONGEST))
    os.close(theirs)
    return pid


def _begin(birth: Birth, fds: dict[str, int]) -> None:
    """Become the attempt's process, as if the launcher had started it; ends here where the launcher does not want it."""
    os.setpgid(0, 0)
    gate = select.poll()
    gate.register(fds["gate"], select.POLLIN)
    while (
        os.getppid() != birth.launcher_pid
    ):  # our parent ends in a moment, and the launcher takes us in; else it has given us up
        if gate.poll(1) and os.getppid() != birth.launcher_pid:
            os._exit(0)
    die_with_parent(birth.launcher_pid)
    for number in (1, 2):
        os.dup2(fds["log"], number)
    os.set_inheritable(fds["lease"], True)
    os.environ |= {
        LAST_WORDS: str(fds["words"]),
        "ADAM_ATTEMPT": str(birth.attempt),
        "ADAM_TOKEN": str(birth.token),
    }
    if os.read(fds["gate"], LONGEST) != GO:
        os._exit(0)
    os.close(fds["gate"])
    os.close(fds["log"])
