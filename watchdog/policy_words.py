"""What goes into the policy and what comes out of it. Everything is frozen; times are seconds of CLOCK_BOOTTIME."""

from enum import StrEnum

import msgspec

from adam.contract.reboots import RebootRules
from adam.contract.records import Desired, ExitReport, Gpu, Plan, Resume, SnapshotSeen
from adam.contract.shared import Control, Pulse
from adam.contract.states import FailureClass, RunState
from adam.watchdog.detect import Trouble
from adam.watchdog.probe_words import Xid
from adam.watchdog.retention import Kept


class Stage(StrEnum):
    """Where the policy stands. Every stage but DONE has a way out by time alone."""

    IDLE = "idle"  # nothing runs; deciding what is next, or waiting out a back-off
    SETTLING = "settling"  # the keeper commits or drops what the last attempt left
    STARTING = "starting"  # supervisord was asked to start the plan's program
    RUNNING = "running"  # its launcher holds the lease
    DONE = "done"  # stopped, finished or failed


class HeatLimits(msgspec.Struct, frozen=True, kw_only=True):
    """°C at which a GPU is too hot, and cool again; the margin is what is left to the chip's own limit."""

    pause: float = 80.0
    resume: float = 70.0
    pause_margin: float = 5.0
    resume_margin: float = 15.0
    pause_memory: float = 95.0
    resume_memory: float = 85.0
    blind_s: float = 600.0  # that a GPU which was too hot stays so without being seen


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration says to the policy; seconds."""

    steps: int
    hang_seconds: float = 8.0
    start_seconds: float = 300.0
    save_seconds: float = 1800.0
    backoff_seconds: float = 0.5
    backoff_cap_seconds: float = 300.0
    same_failures: int = 3
    stop_seconds: float = 180.0
    checkpoint_minutes: float = 0.0  # 0: chosen
    by_steps_only: bool = False  # checkpoints are due at steps, and never by time
    write_bytes_per_day: float = 2e12
    heat: HeatLimits = HeatLimits()
    seed: int = 0  # of the jitter
    batch_size: int = 1
    micro_batch: int = 1
    gpus: int = 1  # that an update is dealt to in whole micro-batches; 1 too where the trainer chooses how many
    rollbacks: int = 3  # these three are keys of [numeric]
    healthy_steps: int = 50
    lr_factor: float = 1.0
    device: str = "auto"  # trainer.device
    reboot: RebootRules = RebootRules()
    reboot_after_s: float = 900.0  # of waiting for a GPU


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What every later plan has besides the configuration, as in Plan: it is part of the run from then on."""

    skip: tuple[tuple[int, int], ...] = ()
    micro_batch: int = 0
    lr_factor: float = 1.0


class Rollback(msgspec.Struct, frozen=True, kw_only=True):
    """Numeric trouble that was answered by going back: for the count, and for the report."""

    text: str
    found: int  # the step at which it was certain
    beyond: int  # the newest step that could be gone back to
    first_sample: int  # of the data that are left out since
    end_sample: int
    kind: str = ""


class LeaseSeen(msgspec.Struct, frozen=True, kw_only=True):
    """The lease file, and whether those whom it names live. `held` is asked of the kernel only where the launcher is dead."""

    program: str
    attempt: int
    token: int
    launcher_pid: int
    launcher_ticks: int
    child_pid: int = 0
    child_ticks: int = 0
    launcher_alive: bool = False
    waiting_pid: int = 0  # a launcher that has nothing to do and takes up the next plan; 0: there is none alive
    waiting_ticks: int = 0
    child_alive: bool = False
    held: bool = False


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """The keeper's answer to a request to settle. `trouble`: ask again later; `refused`: no use in asking again."""

    id: int
    checkpoints: tuple[Kept, ...] = ()  # oldest first
    in_quarantine: int = 0
    trouble: str = ""
    refused: str = ""
    snapshot: SnapshotSeen | None = None


class RebootSeen(msgspec.Struct, frozen=True):
    """A reboot that was asked for. `this_boot`: the machine has not been restarted since."""

    age_s: float
    step: int
    this_boot: bool


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What the shell saw. `pulse` and `exit` may be of any attempt: the policy looks at their tokens."""

    desired: Desired = Desired()
    wish_known: bool = True  # False: nobody could read yet what people want, and `desired` is as it was before
    data_ready: bool = True
    lease: LeaseSeen | None = None
    pulse: Pulse | None = None
    exit: ExitReport | None = None
    settled: Settled | None = None
    keeper_idle: bool = True
    commit_trouble: str = ""  # of the last commit; empty: it went well
    checkpoints: tuple[Kept, ...] = ()  # as the keeper last listed them, oldest first
    commit_seconds: float = 0.0  # what the last checkpoint took, and its size; 0: none was made yet
    commit_bytes: int = 0
    saves_done: int = 0  # the last save request that a verified checkpoint answers
    upload_pending: bool = False  # the newest checkpoint is not at the far place yet, and can still get there
    launch_error: str = ""  # of the last Launch or Shutdown; empty: it went well
    program_state: str = ""  # supervisord's word for the plan's program, where it was asked
    collecting: bool = False  # a bundle of a hang is being made
    gpus: tuple[Gpu, ...] = ()  # the newest readings; empty where `sensors` is not ok
    sensors: str = "none"  # ok, none (no NVIDIA driver) or unknown
    gpu_fault: str = ""  # where they say what is wrong with all GPUs: lost, mismatch, reset
    lost: tuple[int, ...] = ()  # GPUs that do not answer any more
    xids: tuple[Xid, ...] = ()  # the last one of each GPU
    trained_on: str = ""  # the device of the last attempt that had one: "cuda NVIDIA H200"
    reboots: tuple[RebootSeen, ...] | None = ()  # that were asked for, oldest first; None: that can't be read
    child_letter: str = ""  # state of the program's process as in proc(5)
    highest_token: int = 0  # over lease, plan and snapshots: where the policy's own memory was lost
    highest_attempt: int = 0
    changes: Changes = Changes()  # of the last plan, likewise
    trouble: Trouble | None = None  # with the numbers of the newest attempt in the log of steps


class Listening(msgspec.Struct, frozen=True):
    """What was heard from the pulse of the present attempt.

    `learnt` has (phase, quiet times counted by size) and outlives attempts; `warm` the phases past their first quiet time in this one.
    """

    progress: int = 0
    phase: int = -1  # none yet
    quiet_s: float = 0.0
    unborn_s: float = 0.0  # spent without having trained anything
    tick: float = 0.0
    trained: bool = False
    learnt: tuple[tuple[int, tuple[int, ...]], ...] = ()
    warm: tuple[int, ...] = ()


class Hot(msgspec.Struct, frozen=True):
    """A GPU that is too hot, and since when it could not be seen any more (None: it is seen)."""

    gpu: int
    text: str  # "GPU 0 at 95 °C"
    unseen: float | None = None


class GpuWait(msgspec.Struct, frozen=True):
    """Training can't go on for want of a GPU: since when, and what was tried on this boot."""

    since: float
    tries: int = 0  # attempts that have ended for it
    tried: float = 0.0  # when the last one did
    well: bool = False  # the sensors saw nothing wrong then
    last: str = ""  # what it said
    text: str = ""  # for people, while no attempt may begin; empty: one may
    asked: float = 0.0  # when a reboot was asked for


class Hang(msgspec.Struct, frozen=True):
    """A program that is being ended because it hangs. `sent` counts the blows so far."""

    since: float
    sent: int
    progress: int


class Failures(msgspec.Struct, frozen=True):
    """What went wrong lately. `in_a_row` counts attempts without progress beyond the best before."""

    in_a_row: int = 0
    signature: str = ""
    same: int = 0
    older_tried: bool = False
    kind: FailureClass | None = None
    text: str = ""
    told: float | None = None  # when people were told that the run is stuck
    deterministic: int = 0  # of those in a row, the ones that the same input gives again
    log: str = ""  # the program's last lines, where it is to them that people look


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What the policy remembers from one decision to the next; kept in `run/status.json`."""

    stage: Stage = Stage.IDLE
    since: float = 0.0  # when the stage was entered
    plan: Plan | None = None  # of the present or last attempt
    restarts: int = 0
    deaths: tuple[float, ...] = ()  # when trainers died lately on this boot, oldest first
    doubtful: bool = False  # the last attempt hung, or came no further than the one before
    crashed: bool = False  # the last attempt: the next start is a restart
    best: int = 0  # furthest step ever reached
    best_before: int = 0  # … before the present attempt
    sound: int = 0  # up to this step all is known to come of a chip that computed right
    forged: int = 0  # furthest mark of the forge
    forged_before: int = 0
    failures: Failures = Failures()
    not_before: float = 0.0
    unlaunched_told: bool = False  # people were told that the present attempt can't be started
    asked: float = 0.0  # when something was asked of supervisord, or signalled, last
    stop_asked: float | None = None
    stop_killed: bool = False
    child_gone: float | None = None
    untold: bool = False  # the launcher was ended, as it could not write how the program had
    hang: Hang | None = None
    listening: Listening = Listening()
    settle_id: int = 0
    settled: Settled | None = None  # the answer that counts for the next start
    settle_trouble: str = ""  # what kept the keeper from settling when it was asked last
    quarantine: str = ""  # a checkpoint that the next settling puts away, and why
    quarantine_reason: str = ""
    beyond: int = -1  # the next settling puts away all checkpoints and snapshots of later steps; -1: none
    from_start: bool = False  # there was no checkpoint of that step or before
    gone_back: bool = False  # the next attempt does steps again: from where it begins, all is progress
    changes: Changes | None = None  # None: what the last plan had
    trouble: Trouble | None = None  # for which the present attempt is being ended
    trouble_due: float = 0.0  # when it is killed, or killed again
    rollbacks: tuple[Rollback, ...] = ()  # for numbers at one place since they last went well, and for the chip
    full_verify: bool = False
    commit_all: bool = False  # the next settling leaves nothing in memory only
    ended_well: bool = False  # the last trainer ended by itself with exit 0
    durable: int = 0  # the pulse's count when a commit was asked for last
    owed: bool = False  # the snapshot that the attempt began from is to be committed
    due: int = 0  # the last durable snapshot that the trainer was asked for
    saved_at: float = 0.0  # when a checkpoint, or a snapshot for one, was asked for last; 0: never
    reboots: int = 0
    began: float = 0.0  # when this run was first seen on this boot
    watched_s: float = 0.0  # … and how long on the boots before
    commit_at: float = 0.0  # a commit that failed is tried again then
    commit_failed: bool = False
    unlogged: bool = False  # rows of the log of steps wait for room on the disk
    verdict: str = ""  # why the run has failed; empty: it has not
    final: RunState | None = None
    closing: bool = False  # supervisord was asked to end: there is nothing left to wait for
    decided_for: float = 0.0  # wall clock of the wish (Desired) under which the final state was reached
    pauses: tuple[str, ...] = ()
    paused: bool = False
    hot: tuple[Hot, ...] = ()
    gpu: GpuWait | None = None


class Launch(msgspec.Struct, frozen=True):
    """Write the plan durably, then have supervisord start its program. Repeating it is harmless."""

    plan: Plan


class AskSettle(msgspec.Struct, frozen=True):
    id: int
    token: int
    resumed: str  # the snapshot that the last attempt began from
    commit: bool  # whatever is in memory; else the next attempt begins from there
    verify: bool
    quarantine: str
    reason: str
    beyond: int = -1


class AskCommit(msgspec.Struct, frozen=True):
    resumed: str  # the snapshot that the present attempt began from
    durable_only: bool


class Signal(msgspec.Struct, frozen=True):
    """Send `number` to the very process with this pid and start time, and to its process group where `group`."""

    pid: int
    ticks: int
    number: int
    group: bool = False


class Collect(msgspec.Struct, frozen=True):
    """Gather what can be seen of a program that hangs, into the directory `name` below `logs/`."""

    name: str
    pid: int
    token: int


class Sweep(msgspec.Struct, frozen=True):
    """SIGKILL every process that was started under `token` in this run."""

    token: int


class Reboot(msgspec.Struct, frozen=True):
    """Ask for a reboot of the machine. The run has come to `step`."""

    step: int
    why: str


class Tell(msgspec.Struct, frozen=True):
    """An event for `events.jsonl`."""

    kind: str
    text: str
    facts: dict[str, str | int | float | bool | None]


class Shutdown(msgspec.Struct, frozen=True):
    """Ask supervisord to end."""


Action = Launch | AskSettle | AskCommit | Collect | Reboot | Signal | Sweep | Tell | Shutdown


class Decision(msgspec.Struct, frozen=True):
    """`control` is what the control word is to say from now on; `wake_at` when to decide again at the latest.

    While a program goes well `wake_at` is far away, and holds for as long as the pulse moves: whoever hears nothing new from it for
    a second decides again, since quiet time is counted look by look.
    """

    memory: Memory
    actions: tuple[Action, ...]
    control: Control
    state: RunState
    reason: str
    notes: tuple[str, ...]
    wake_at: float


def resume_of(settled: Settled) -> Resume | None:
    """The newest of the keeper's answer: a snapshot in memory, else a verified checkpoint."""
    if (snapshot := settled.snapshot) is not None:
        return Resume(snapshot.name, snapshot.step, snapshot.slot)
    return next((Resume(kept.name, kept.step) for kept in reversed(settled.checkpoints) if kept.verified), None)
