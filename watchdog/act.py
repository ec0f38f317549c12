"""The watchdog's hands: carries out what the policy decided."""

import os
import signal
from collections.abc import Callable

from msgspec.structs import replace

from adam.contract import schema
from adam.contract.clock import stamp
from adam.contract.errors import AdamError, NotRunningError
from adam.contract.lease import launcher_waits, processes_of, read_lease
from adam.contract.paths import RunPaths
from adam.contract.process import alive
from adam.contract.shared import Control, SharedWord
from adam.contract.supervisor import Supervisor
from adam.watchdog.journal import Journal
from adam.watchdog.keeper_client import KeeperClient
from adam.watchdog.policy_words import (
    Action,
    AskCommit,
    AskSettle,
    Collect,
    Launch,
    Reboot,
    Shutdown,
    Signal,
    Sweep,
    Tell,
)
from adam.watchdog.reboots import RebootJournal


class Hands:
    """Acts. What could not be done is in `launch_error` and `trouble`, for the policy and the status to see."""

    def __init__(
        self,
        paths: RunPaths,
        supervisor: Supervisor,
        keeper: KeeperClient,
        journal: Journal,
        collect: Callable[[Collect, float], None],
        reboots: RebootJournal,
    ) -> None:
        self._collect, self._reboots = collect, reboots
        self._paths, self._supervisor, self._keeper, self._journal = paths, supervisor, keeper, journal
        self._control: SharedWord[Control] | None = None
        self._said: Control | None = None
        self.launch_error = ""
        self.trouble = ""

    def do(self, action: Action, now: float) -> None:
        match action:
            case Launch():
                self._launch(action)
            case AskSettle():
                self._keeper.settle(action, now)
            case AskCommit():
                self._keeper.commit(action, now)
            case Collect():
                self._collect(action, now)
            case Reboot():
                self._reboots.ask(action.step, action.why)
            case Signal():
                send_signal(action)
            case Sweep():
                self._sweep(action)
            case Tell():
                self._journal.tell(action.kind, action.text, **action.facts)
            case Shutdown():
                self._shutdown()

    def say(self, control: Control) -> None:
        """Have the control word say `control`."""
        if control == self._said:
            return
        try:
            if self._control is None:
                self._control = SharedWord(self._paths.control, Control, write=True)
            self._control.write(control)
            self._said, self.trouble = control, ""
        except OSError as error:
            self.trouble = f"the control word can't be written: {error.strerror}"

    def _launch(self, action: Launch) -> None:
        try:
            waits = self._is_awaited(action.plan.program)  # asked first: it may take the plan up as soon as it is there
            schema.save_reserved(self._paths.plan, replace(action.plan, stamp=stamp()))
            if not waits:
                self._supervisor.start(action.plan.program)
            self.launch_error = ""
        except AdamError as error:
            self.launch_error = str(error)
        except OSError as error:
            self.launch_error = f"the plan can't be written: {error.strerror} ({error.filename})"

    def _is_awaited(self, program: str) -> bool:
        """True where a launcher takes the next plan for `program` up by itself."""
        lease = read_lease(self._paths)
        return lease is not None and lease.program == program and launcher_waits(self._paths, lease)

    def _shutdown(self) -> None:
        try:
            self._supervisor.shutdown()
            self.launch_error = ""
        except NotRunningError:
            self.launch_error = ""
        except AdamError as error:
            self.launch_error = str(error)

    def _sweep(self, action: Sweep) -> None:
        for pid in processes_of(self._paths, action.token):
            os.kill(pid, signal.SIGKILL)


def send_signal(action: Signal) -> None:
    """To the process with this identity, or to nobody."""
    if not alive(action.pid, action.ticks):
        return
    if action.group and os.getpgid(action.pid) == action.pid:
        os.killpg(action.pid, action.number)
    else:
        os.kill(action.pid, action.number)
