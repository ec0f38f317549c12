"""The loop: look, decide, act, at each tick and whenever a process ends. One thread; nothing in it waits for anybody."""

import contextlib
import os
import selectors
import signal
from types import FrameType

from msgspec.structs import replace
from structlog.typing import FilteringBoundLogger

from adam.contract import schema
from adam.contract.clock import boottime_ns
from adam.contract.config import Config
from adam.contract.config_file import load_config
from adam.contract.notify import notify
from adam.contract.paths import RunPaths
from adam.contract.process import start_ticks
from adam.contract.reboots import RebootRules
from adam.contract.records import BackendReport, Numerics, Staging, encode_line
from adam.contract.retention import rules_of
from adam.contract.states import Phase, RunState
from adam.contract.steplog import copy_path
from adam.contract.supervisor import Supervisor
from adam.watchdog.act import Hands
from adam.watchdog.backend import backend_news, shortfall
from adam.watchdog.beat import BeatWriter
from adam.watchdog.bundler import Bundler
from adam.watchdog.followers import followers_of
from adam.watchdog.journal import Journal
from adam.watchdog.keeper_client import KeeperClient
from adam.watchdog.losses import Losses
from adam.watchdog.numerics import hear_numerics
from adam.watchdog.observe import Eyes
from adam.watchdog.parent import supervised
from adam.watchdog.policy import decide
from adam.watchdog.policy_power import CapRules, Orders
from adam.watchdog.policy_words import Collect, Decision, HeatLimits, LeaseSeen, Settings, Stage
from adam.watchdog.probe_words import Reading
from adam.watchdog.reboots import RebootJournal
from adam.watchdog.sensors import GpuSensors, HostSensors
from adam.watchdog.status_file import Remembered, StatusFile, recall
from adam.watchdog.telemetry import Telemetry, work_of
from adam.watchdog.uploader_client import UploaderClient
from adam.watchdog.watched import Watched

TICK_S = 0.25  # while something starts or ends
STEADY_S = 0.5  # while training runs, or nothing does: most of what the watchdog costs is waking up
STEADY = (Stage.RUNNING, Stage.DONE)
CALL_S = 2.0  # for supervisord to answer; the loop stands still meanwhile
LEAVE_S = 20.0  # after SIGTERM, for the keeper to end what it has begun
NOTIFY_S = 2.0
LAST_SYNC_S = 2.0  # for the last state to be on the disk
STAGING = {
    "ram": "snapshots are kept in memory between checkpoints",
    "disk": "snapshots are staged on disk",
    "none": "there is no room for snapshots, training goes on without",
}


def boottime_s() -> float:
    return boottime_ns() / 1e9


def settings_of(config: Config) -> Settings:
    watchdog = config.watchdog
    return Settings(
        steps=config.trainer.steps,
        hang_seconds=watchdog.hang_seconds,
        start_seconds=watchdog.start_seconds,
        save_seconds=watchdog.save_seconds,
        backoff_seconds=watchdog.backoff_seconds,
        backoff_cap_seconds=watchdog.backoff_cap_seconds,
        same_failures=watchdog.same_failures,
        stop_seconds=watchdog.stop_seconds,
        checkpoint_minutes=config.checkpoint.every_minutes,
        by_steps_only=config.checkpoint.every_steps > 0 and config.checkpoint.every_minutes == 0,
        write_bytes_per_day=config.checkpoint.write_gb_per_day * 1e9,
        seed=config.trainer.seed,
        heat=HeatLimits(
            pause=watchdog.pause_celsius,
            resume=watchdog.resume_celsius,
            pause_margin=watchdog.pause_margin_celsius,
            resume_margin=watchdog.resume_margin_celsius,
            pause_memory=watchdog.pause_memory_celsius,
            resume_memory=watchdog.resume_memory_celsius,
            blind_s=watchdog.blind_seconds,
        ),
        batch_size=config.trainer.batch_size,
        micro_batch=config.trainer.micro_batch,
        gpus=config.trainer.gpus if isinstance(config.trainer.gpus, int) else 1,
        rollbacks=config.numeric.rollbacks,
        healthy_steps=config.numeric.healthy_steps,
        lr_factor=config.numeric.lr_factor,
        device=config.trainer.device,
        reboot=RebootRules(
            per_day=watchdog.reboots_per_day if watchdog.reboot else 0, uptime_s=60 * watchdog.reboot_uptime_minutes
        ),
        reboot_after_s=60 * watchdog.reboot_after_minutes,
    )


def orders_of(paths: RunPaths, config: Config) -> Orders:
    watchdog = config.watchdog
    rules = CapRules(
        floor_w=watchdog.power_floor_watts, room=watchdog.power_room_celsius, heat=settings_of(config).heat
    )
    return Orders(str(paths.power), rules)


class Leaving:
    """SIGTERM and SIGINT set a flag; the loop acts on it."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.asked = True


class Doors:
    """Wakes the loop when the launcher or the program ends, within milliseconds."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._open: dict[int, int] = {}  # pid -> pidfd

    def watch(self, lease: LeaseSeen | None) -> None:
        wanted = set()
        if lease is not None:
            wanted |= {lease.launcher_pid} if lease.launcher_alive else set()
            wanted |= {lease.child_pid} if lease.child_alive else set()
        for pid in set(self._open) - wanted:
            fd = self._open.pop(pid)
            self._selector.unregister(fd)
            os.close(fd)
        for pid in wanted - set(self._open):
            self._watch_one(pid)

    def _watch_one(self, pid: int) -> None:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return  # it has just ended: the next look sees it
        self._open[pid] = fd
        self._selector.register(fd, selectors.EVENT_READ)


class Watchdog:
    """One watchdog process of one run."""

    def __init__(self, paths: RunPaths, config: Config, log: FilteringBoundLogger, stderr: int) -> None:
        self._paths = paths
        # `adamctl up` may write another configuration while systemd keeps this process running.
        self._settings = Watched(lambda: settings_of(load_config(paths.lock)), paths.lock)
        now = boottime_s()
        self._selector = selectors.DefaultSelector()
        self._journal = Journal(paths.events, log)
        self._keeper = KeeperClient(
            paths,
            rules_of(config.checkpoint),
            self._selector,
            self._journal,
            stderr,
            longest_s=config.watchdog.save_seconds,
        )
        self._uploader = UploaderClient(paths, config.upload, self._selector, self._journal, stderr)
        supervisor = Supervisor(paths.supervisor_socket, timeout=CALL_S)
        numeric = Watched(lambda: load_config(paths.lock).numeric, paths.lock)
        losses = Losses(paths.steps, numeric.get, copy_path(paths))
        self._remembered = recall(paths, now)
        self._keeper.saves = self._remembered.saves
        self._eyes = Eyes(paths, supervisor, self._keeper, losses, self._uploader, self._remembered.policy.plan)
        self._reboots = RebootJournal(paths)
        self._hands = Hands(paths, supervisor, self._keeper, self._journal, self._collect, self._reboots)
        self._bundler = Bundler(paths, stderr)
        seconds = config.watchdog.telemetry_seconds
        self._gpus = GpuSensors(seconds, self._selector, self._journal, stderr, orders_of(paths, config))
        self._followers = followers_of(paths, config, os.environ, self._selector, stderr)
        self._host = HostSensors(seconds, paths.root)
        self._telemetry = Telemetry(paths, self._still_here)
        self._work = Watched(lambda: work_of(paths), paths.lock, paths.tokens_manifest)
        self._numerics = Watched(lambda: schema.load(paths.numerics, Numerics), paths.numerics, otherwise=None)
        self._staging = Watched(
            lambda: schema.load(paths.staging_report, Staging), paths.staging_report, otherwise=None
        )
        self._backend = Watched(
            lambda: schema.load(paths.backend_report, BackendReport), paths.backend_report, otherwise=None
        )
        self._status = StatusFile(paths)
        self._damaged = ""  # what was told last of damaged lines
        self._doors = Doors(self._selector)
        self._ticks = start_ticks(os.getpid()) or 0
        self._beat = BeatWriter(paths.beat, self._ticks, replaced=supervised(paths))
        self._ready = "" if supervised(paths) else "READY=1\n"  # a unit of its own is up when its loop turns
        self._notified_at = 0.0
        self._journal.tell("watchdog_started", f"the watchdog is process {os.getpid()}", pid=os.getpid())

    def run(self, leaving: Leaving) -> int:
        """Until SIGTERM, and until then for ever: an exception nobody foresaw ends the process, and another is started."""
        left_at: float | None = None
        while True:
            now = boottime_s()
            decision = self._turn(now)
            if leaving.asked:
                left_at = now if left_at is None else left_at
                busy = not self._keeper.idle or self._remembered.policy.stage == Stage.SETTLING
                if not busy or now - left_at > LEAVE_S:
                    self._leave(decision, now)
                    return 0
            steady = decision.memory.stage in STEADY or decision.state == RunState.WAITING
            tick = STEADY_S if steady else TICK_S
            self._selector.select(min(tick, max(0.0, decision.wake_at - now)))

    def _turn(self, now: float) -> Decision:
        """One look, one decision, and what follows from it."""
        self._beat.beat()
        self._keeper.attend(now)
        self._gpus.attend(now)
        self._bundler.attend(now)
        self._followers.attend(now)
        policy = self._remembered.policy
        finished = policy.final == RunState.FINISHED
        self._uploader.attend(self._keeper.newest, finished, now, known=self._keeper.heard)
        seen = replace(
            self._eyes.look(policy, self._hands.launch_error, now),
            gpus=self._gpus.gpus,
            sensors=self._gpus.state,
            gpu_fault=self._gpus.fault,
            lost=self._gpus.lost,
            xids=self._gpus.xids,
            trained_on=self._trained_on(),
            reboots=self._reboots.seen(),
            collecting=self._bundler.busy,
        )
        decision = decide(self._settings.get(), policy, seen, now)
        self._hands.say(decision.control)
        self._remember(decision)
        if decision.actions and decision.memory.stage != policy.stage:
            self._write_status(decision, now)  # before the deed: a watchdog that dies in it must know of it
        for action in decision.actions:
            self._hands.do(action, now)
        self._doors.watch(seen.lease)
        self._join(decision, now)
        self._write_status(decision, now)
        self._journal.flush()
        self._notify(decision, now)
        return decision

    def _collect(self, action: Collect, now: float) -> None:
        self._bundler.collect(action, encode_line(Reading(self._gpus.state, self._gpus.gpus)), now)

    def _remember(self, decision: Decision) -> None:
        numerics, found = hear_numerics(self._remembered.numerics, self._numerics.get())
        if found:
            self._journal.tell("numerics_changed", f"losses are no longer bit for bit those of before: {found}")
        self._remembered = Remembered(
            policy=decision.memory,
            numerics=numerics,
            saves=self._keeper.saves,
            staging=self._hear_staging(),
            backend=self._hear_backend(),
        )

    def _hear_backend(self) -> str:
        """Tell of a backend that failed its self-check, and when none does any more."""
        told, kind, text = backend_news(self._remembered.backend, self._backend.get())
        if kind:
            self._journal.tell(kind, text)
        return told

    def _trained_on(self) -> str:
        numerics = self._numerics.get()
        return numerics.parts.get("device", "") if numerics is not None else ""

    def _hear_staging(self) -> str:
        """Tell where snapshots are written, when that has changed."""
        report, told = self._staging.get(), self._remembered.staging
        if report is None:
            return told
        text = STAGING[report.tier] + (f": {report.why}" if report.why else "")
        if text != told:
            self._journal.tell("staging", text, tier=report.tier, slots=report.slots, bytes=report.slot_bytes)
        return text

    def _join(self, decision: Decision, now: float) -> None:
        phase = decision.memory.listening.phase
        cells = {
            "phase": Phase(phase).name.lower() if phase >= 0 else "",
            **self._gpus.cells(),
            **self._host.cells(now),
        }
        self._telemetry.join(cells, now, self._work.get(), self._numerics.get())
        if self._telemetry.news:
            self._journal.tell("plan_changed", self._telemetry.news)
            self._telemetry.news = ""
        if self._telemetry.damaged != self._damaged:
            self._damaged = self._telemetry.damaged
            self._journal.tell("steps_damaged", self._damaged)

    def _notes(self, decision: Decision, now: float) -> tuple[str, ...]:
        troubles = (
            self._hands.trouble,
            self._reboots.trouble,
            self._telemetry.trouble,
            self._telemetry.damaged,
            self._journal.trouble,
            self._status.trouble,
            self._keeper.note,
            self._bundler.trouble,
            self._gpus.note,
            *self._followers.notes,
            self._uploader.note,
            *self._eyes.troubles,
            *(file.trouble for file in (self._settings, self._numerics, self._staging, self._backend, self._work)),
        )
        staging = self._staging.get()
        nowhere = (f"{STAGING['none']}: {staging.why}",) if staging is not None and staging.tier == "none" else ()
        slow = self._keeper.busy_s(now) > self._settings.get().save_seconds
        own = ("the keeper has not answered for long: the disk may hang",) if slow else ()
        slower = shortfall(self._backend.get())
        found = dict.fromkeys(trouble for trouble in (*troubles, slower) if trouble)  # each once
        return (*decision.notes, *found, *nowhere, *own)

    def _write_status(self, decision: Decision, now: float, state: RunState | None = None) -> None:
        plan, last = decision.memory.plan, self._remembered.numerics.last
        self._status.write(
            state or decision.state,
            decision.reason,
            plan.attempt if plan else 0,
            self._remembered,
            now,
            restarts=decision.memory.restarts,
            watchdog_pid=os.getpid(),
            watchdog_ticks=self._ticks,
            checkpoint=self._keeper.newest,
            upload=self._uploader.seen,
            gpus=self._gpus.gpus,
            sensors=self._gpus.state,
            saves_done=self._keeper.saves,
            fingerprint=last.fingerprint if last else "",
            breaks=self._remembered.numerics.breaks,
            notes=self._notes(decision, now),
        )

    def _leave(self, decision: Decision, now: float) -> None:
        """supervisord ends, or replaces us. Where nothing runs any more, the run is stopped until somebody starts it again."""
        lease = self._eyes.lease(decision.memory)
        nothing_runs = decision.memory.stage != Stage.DONE and not (lease and (lease.launcher_alive or lease.held))
        self._write_status(decision, now, RunState.STOPPED if nothing_runs else None)
        self._status.settle(LAST_SYNC_S)
        self._keeper.end(now)
        self._uploader.end(now)
        self._gpus.end(now)
        self._followers.end(now)

    def _still_here(self) -> None:
        """Within a turn that takes long for a good reason."""
        self._beat.beat()
        notify("WATCHDOG=1")

    def _notify(self, decision: Decision, now: float) -> None:
        if now - self._notified_at >= NOTIFY_S:
            self._notified_at = now
            with contextlib.suppress(OSError):  # a full disk is told by others
                # Where somebody deleted the directory of the logs, supervisord would start nothing any more.
                self._paths.logs.mkdir(exist_ok=True)
            notify(f"{self._ready}WATCHDOG=1\nSTATUS={decision.state}: {decision.reason}")
            self._ready = ""
