"""The watchdog's eyes: one look at everything, cheap enough for each tick of the loop."""

from typing import Any

from adam.contract import schema
from adam.contract.checkpoints import list_checkpoints, parse_name
from adam.contract.errors import AdamError
from adam.contract.lease import child_lives, launcher_lives, launcher_waits, lease_is_held, read_lease
from adam.contract.paths import RunPaths
from adam.contract.process import state_letter
from adam.contract.records import Desired, ExitReport, Plan
from adam.contract.shards import data_ready
from adam.contract.shared import Pulse, SharedWord
from adam.contract.steplog import newest_key
from adam.contract.supervisor import Supervisor
from adam.watchdog.keeper_client import KeeperClient
from adam.watchdog.losses import Losses
from adam.watchdog.policy_running import LAUNCHING_S
from adam.watchdog.policy_words import Changes, LeaseSeen, Memory, Observation, Stage
from adam.watchdog.pulses import OtherRanks, together
from adam.watchdog.uploader_client import UploaderClient
from adam.watchdog.watched import Watched

ASK_SUPERVISOR_S = 2.0
PULSE_OF = {"trainer": "0", "forge": "forge"}


class Eyes:
    """Looks; changes nothing. `remembered` is the last plan as the watchdog before this one knew it, for a file that can't be read."""

    def __init__(
        self,
        paths: RunPaths,
        supervisor: Supervisor,
        keeper: KeeperClient,
        losses: Losses,
        uploader: UploaderClient,
        remembered: Plan | None = None,
    ) -> None:
        self._paths, self._supervisor, self._keeper = paths, supervisor, keeper
        self._losses, self._uploader = losses, uploader
        self._desired: Watched[Desired | None] = Watched(
            lambda: schema.load(paths.desired, Desired) or Desired(), paths.desired, otherwise=None
        )
        # What can't be read is not ready: the forge says what is wrong with it.
        self._ready = Watched(lambda: data_ready(paths), paths.shards_manifest, paths.tokens_manifest, otherwise=False)
        self._exits = {name: self._watch_exit(name) for name in PULSE_OF}
        self._pulse: SharedWord[Pulse] | None = None
        self._pulse_token = 0
        self._ranks = OtherRanks(paths)
        self._last_pulse: Pulse | None = None
        self._program_state, self._asked_at = "", 0.0
        self._plan = Watched(lambda: schema.load(paths.plan, Plan), paths.plan, otherwise=None)
        plan = self._plan.get()
        plan = remembered if self._plan.trouble else plan
        self._highest = highest_seen(paths, plan)
        self._changes = changes_of(plan)

    def _watch_exit(self, program: str) -> Watched[ExitReport | None]:
        path = self._paths.exit_report(program)
        return Watched(lambda: schema.load(path, ExitReport), path, otherwise=None)

    @property
    def troubles(self) -> tuple[str, ...]:
        """Files that can't be read; empty texts: they can."""
        files: tuple[Watched[Any], ...] = (self._desired, self._ready, self._plan, *self._exits.values())
        return tuple(file.trouble for file in files)

    def look(self, memory: Memory, launch_error: str, now: float) -> Observation:
        """What is to be seen at `now`."""
        lease = self.lease(memory)
        self._plan.get()  # for `troubles`: the next attempt's plan replaces one that can't be read
        desired = self._desired.get()
        return Observation(
            desired=desired or desired_before(memory),
            wish_known=desired is not None,
            data_ready=self._ready.get(),
            lease=lease,
            pulse=self._read_pulse(memory.plan),
            exit=self._exits[memory.plan.program].get() if memory.plan else None,
            settled=self._keeper.settled,
            keeper_idle=self._keeper.idle,
            commit_trouble=self._keeper.commit_trouble,
            checkpoints=self._keeper.checkpoints,
            commit_seconds=self._keeper.commit_seconds,
            commit_bytes=self._keeper.commit_bytes,
            saves_done=self._keeper.saves,
            upload_pending=self._uploader.pending,
            launch_error=launch_error,
            program_state=self._state_of(memory, now),
            child_letter=(state_letter(lease.child_pid) or "") if lease and lease.child_alive else "",
            highest_token=self._highest[0],
            highest_attempt=self._highest[1],
            changes=self._changes,
            trouble=self._losses.trouble(),  # last: what the exit report speaks of is in the log by then
        )

    def lease(self, memory: Memory) -> LeaseSeen | None:
        """The lease as it is now, and who of those it names lives."""
        lease = read_lease(self._paths)
        if lease is None:
            return None
        launcher_alive = launcher_lives(self._paths, lease)
        return LeaseSeen(
            program=lease.program,
            attempt=lease.attempt,
            token=lease.token,
            launcher_pid=lease.launcher_pid,
            launcher_ticks=lease.launcher_ticks,
            child_pid=lease.child_pid,
            child_ticks=lease.child_ticks,
            launcher_alive=launcher_alive,
            waiting_pid=lease.waiting_pid if launcher_waits(self._paths, lease) else 0,
            waiting_ticks=lease.waiting_ticks,
            child_alive=child_lives(self._paths, lease),
            # Trying the lock would get into the way of a launcher that is just taking it.
            held=not launcher_alive and memory.stage != Stage.STARTING and lease_is_held(self._paths),
        )

    def _read_pulse(self, plan: Plan | None) -> Pulse | None:
        """The pulse of the plan's program. Mapped anew until it is the present attempt's: the file may have been replaced."""
        if plan is None:
            return None
        if self._last_pulse is None or self._last_pulse.token != plan.token:
            self._map_pulse(plan)
        if self._pulse is None:
            return None
        pulse = self._pulse.read()
        self._last_pulse = pulse if pulse is not None else self._last_pulse
        if self._last_pulse is None or plan.program != "trainer":
            return self._last_pulse
        return together(self._last_pulse, self._ranks.read(self._last_pulse.token))

    def _map_pulse(self, plan: Plan) -> None:
        if self._pulse is not None:
            self._pulse.close()
        self._last_pulse = None
        try:
            self._pulse = SharedWord(self._paths.pulse(PULSE_OF[plan.program]), Pulse, write=False)
        except FileNotFoundError:
            self._pulse = None

    def _state_of(self, memory: Memory, now: float) -> str:
        """supervisord's word for the plan's program, asked only where a launcher does not come up."""
        if memory.stage != Stage.STARTING or memory.plan is None or now - memory.since < LAUNCHING_S:
            return ""
        if now - self._asked_at > ASK_SUPERVISOR_S:
            self._asked_at = now
            try:
                self._program_state = self._supervisor.program(memory.plan.program)[0]
            except AdamError:
                self._program_state = ""  # the launch tells what supervisord's trouble is
        return self._program_state


def desired_before(memory: Memory) -> Desired:
    """What people wanted, as far as the policy remembers it: a living program goes on as it was."""
    pauses = tuple(name for name in memory.pauses if name not in ("heat", "disk"))  # those are the policy's own
    return Desired(running=memory.stop_asked is None, pauses=pauses)


def changes_of(plan: Plan | None) -> Changes:
    """What the last plan had besides the configuration."""
    return (
        Changes() if plan is None else Changes(skip=plan.skip, micro_batch=plan.micro_batch, lr_factor=plan.lr_factor)
    )


def highest_seen(paths: RunPaths, plan: Plan | None) -> tuple[int, int]:
    """The highest (token, attempt) that anything in the run mentions: what comes next must be above both."""
    tokens, attempts = [0], [newest_key(paths.steps).attempt]
    for record in (read_lease(paths), plan):
        if record is not None:
            tokens.append(record.token)
            attempts.append(record.attempt)
    for path in list_checkpoints(paths.checkpoints):
        attempts.append((parse_name(path.name) or (0, 0))[1])
    return max(tokens), max(attempts)
