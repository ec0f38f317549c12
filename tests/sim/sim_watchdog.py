"""The watchdog's shell as a model, around the real policy: what it sees, what it does, what it writes down, and how it dies."""

import math
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace
from sim_keeper import Keeper
from sim_upload import Uploader

from adam.contract.records import Plan
from adam.contract.states import RunState
from adam.watchdog import policy
from adam.watchdog.policy_words import (
    Action,
    AskCommit,
    AskSettle,
    Changes,
    Collect,
    Decision,
    Launch,
    Memory,
    Observation,
    Reboot,
    RebootSeen,
    Settings,
    Shutdown,
    Signal,
    Stage,
    Sweep,
    Tell,
)
from adam.watchdog.status_file import FRESH_S, Remembered
from adam.watchdog.upload_policy import in_boot_of
from adam.watchdog.upload_words import Journal

if TYPE_CHECKING:
    from sim_machine import Machine

LOOK_S = 1.0  # between two looks at something that does not move; the real loop looks four times as often


class Watchdog:
    """The watchdog with its children. `up_at`: when it is up (None: nobody will start it)."""

    def __init__(self, machine: "Machine", settings: Settings) -> None:
        self.machine, self.settings = machine, settings
        self.up_at: float | None = 0.0
        self.memory = Memory()
        self._written_memory, self._written_at = self.memory, -math.inf
        self._written_as: tuple[RunState, str, int] | None = None
        self.highest, self.changes = (0, 0), Changes()
        self.decision: Decision | None = None
        self.decisions = 0
        self.launch_error = ""
        self.collected_at = 0.0
        self.keeper_at = self.uploads_at = math.inf  # when they have something to do
        self.keeper = Keeper(machine.disk, machine.box, 0, 0, machine.t)
        self.uploader = Uploader(machine.hub, machine.box, Journal())

    @property
    def watches(self) -> bool:
        return self.up_at is not None and self.machine.t >= self.up_at

    def next_at(self) -> float:
        """When its children or it itself have something to do."""
        machine = self.machine
        self.keeper_at = self.uploads_at = wake = math.inf
        if self.up_at is None:
            return math.inf
        if self.up_at > machine.t:
            return self.up_at
        if self.decision is not None:
            program = machine.program
            still = program is not None and not (program.beats and machine.t >= program.quiet_until)
            wake = self.decision.wake_at + machine.booted_at
            wake = min(wake, machine.t + LOOK_S) if still else wake
        self.keeper_at, self.uploads_at = self.keeper.next_at(), self.uploader.next_at()
        return min(self.keeper_at, self.uploads_at, wake)

    def move(self) -> None:
        if not self.watches:
            return
        machine = self.machine
        if machine.t >= self.keeper_at:
            machine.show_memory()
            self.keeper.move(machine.t, machine.wall)
            self._tell_uploader()
        if machine.t >= self.uploads_at:
            self.uploader.move(machine.t, machine.stamp)
            machine.disk.held = self.uploader.held

    # ── one turn of its loop ──

    def look(self) -> Observation:
        machine, keeper = self.machine, self.keeper
        program = machine.program
        machine.forget_trouble()
        if machine.lease is not None and machine.lease.held and program is None:
            machine.lease = replace(machine.lease, held=False)
        starting = self.memory.stage == Stage.STARTING and machine.launching is None and program is None
        gpus, sensors = machine.heat.seen(machine.t)
        card, fault = machine.card, machine.card.fault(machine.t)
        if fault or card.is_silent(machine.t):
            gpus, sensors = (), "unknown"
        return Observation(
            desired=machine.desired,
            data_ready=machine.data_ready,
            lease=machine.lease,
            pulse=machine.pulse(),
            exit=machine.report,
            settled=keeper.settled,
            keeper_idle=keeper.idle,
            commit_trouble=keeper.trouble,
            checkpoints=keeper.listed,
            commit_seconds=keeper.commit_seconds,
            commit_bytes=machine.box.commit_bytes if keeper.commit_seconds else 0,
            saves_done=keeper.saves,
            upload_pending=not keeper.heard or self.uploader.pending(machine.stamp),
            launch_error=self.launch_error,
            program_state="EXITED" if starting else "RUNNING",
            collecting=machine.t < self.collected_at,
            gpus=gpus,
            sensors=sensors,
            gpu_fault=fault,
            lost=(0,) if fault == "lost" else (),
            xids=card.xids(machine.t) if fault else (),
            trained_on="cuda H200",
            reboots=tuple(
                RebootSeen(machine.t - at, step, boot == machine.boots) for at, boot, step in machine.reboots
            ),
            child_letter=program.letter if program is not None else "",
            highest_token=self.highest[0],
            highest_attempt=self.highest[1],
            changes=self.changes,
            trouble=machine.trouble,
        )

    def decide(self) -> Decision:
        machine, past = self.machine, self.memory.stage
        self._tell_uploader()
        decision = self.decision = policy.decide(self.settings, self.memory, self.look(), machine.now)
        self.memory, self.decisions = decision.memory, self.decisions + 1
        if machine.spoil is not None and decision.memory.beyond >= 0:
            machine.spoil.known = machine.gone_back = True
        if machine.program is not None:
            machine.program.hear(decision.control, machine.t)
        self._write_status(decision, bool(decision.actions) and decision.memory.stage != past)
        for action in decision.actions:
            self._do(action)
        return decision

    def _tell_uploader(self) -> None:
        if self.keeper.newest:
            machine, finished = self.machine, self.memory.final == RunState.FINISHED
            self.uploader.hear(self.keeper.newest, finished, machine.t, machine.stamp)

    def _do(self, action: Action) -> None:
        machine = self.machine
        match action:
            case Launch(plan):
                self.launch_error = machine.launch(plan)
            case AskSettle() | AskCommit():
                machine.show_memory()
                self.keeper.ask(action, machine.t)
            case Collect():
                self.collected_at = machine.t + machine.box.bundle_s
            case Signal():
                machine.signal(action.pid, action.ticks, action.number)
            case Sweep(token):
                machine.sweep(token)
            case Shutdown():
                self._shut_down()
            case Reboot(step):
                machine.reboots.append((machine.t, machine.boots, step))
                machine.reboot_at = machine.t + 1.0
            case Tell():
                pass

    def _shut_down(self) -> None:
        if self.machine.t < self.machine.mute_until:
            self.launch_error = "supervisord did not answer"
            return
        self.machine.kill_everybody()
        self.up_at = None

    # ── what outlives it ──

    def _write_status(self, decision: Decision, moved: bool) -> None:
        machine, plan = self.machine, decision.memory.plan
        told = (decision.state, decision.reason, plan.attempt if plan else 0)
        due = told != self._written_as or moved or machine.now - self._written_at >= FRESH_S
        if due:
            self._written_as, self._written_at = told, machine.now
            self._written_memory = decision.memory

    def encoded(self) -> bytes:
        """`status.json` as it last wrote it. A memory that has not changed is renewed every FRESH_S."""
        machine = self.machine
        if machine.now - self._written_at >= FRESH_S:
            self._written_memory = self.memory
        remembered = Remembered(policy=self._written_memory, saves=self.keeper.saves)
        return msgspec.json.encode(msgspec.to_builtins(remembered))

    def end(self, back_in: float, *, amnesia: bool = False, boots: bool = False) -> None:
        """It dies with its children; the next one knows what `status.json` says, and sees what is there."""
        machine = self.machine
        known = Remembered() if amnesia else msgspec.convert(msgspec.json.decode(self.encoded()), Remembered)
        self.up_at = machine.t + back_in
        if boots:
            machine.reboot(self.up_at)
        if amnesia and machine.spoil is not None:
            machine.spoil.known = False
        self.memory = policy.restored(known.policy, self.up_at - machine.booted_at, same_boot=not boots)
        self._written_memory, self._written_as, self._written_at = known.policy, None, -math.inf
        token = machine.lease.token if machine.lease is not None else 0
        self.keeper = Keeper(machine.disk, machine.box, token, known.saves, self.up_at)
        journal = in_boot_of(self.uploader.journal, machine.stamp)
        key, self.uploader = self.uploader.key, Uploader(machine.hub, machine.box, journal)
        self.uploader.key, machine.disk.held = key, ()
        self.launch_error, self.decision = "", None
        plan = machine.plan_file or Plan(program="", attempt=0, token=0)
        self.highest = (
            max(plan.token, token),
            max([plan.attempt, *(item.attempt for item in machine.disk.stored)]),
        )
        self.changes = Changes(skip=plan.skip, micro_batch=plan.micro_batch, lr_factor=plan.lr_factor)

    def sleep(self, seconds: float) -> None:
        """The machine slept until now."""
        self.keeper.sleep(seconds)
        self.uploader.sleep(seconds)
        if self.up_at is not None and self.up_at > self.machine.t - seconds:
            self.up_at += seconds
