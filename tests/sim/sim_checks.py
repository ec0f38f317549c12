"""What must hold of the policy at every decision and at the end. Raises Broken with the day it happened on."""

import math
from collections import Counter, deque

import msgspec
from sim_box import DAY, HOUR
from sim_ledger import Ledger, place
from sim_machine import Crash, Machine
from sim_program import Forge
from sim_upload import MOST_AN_HOUR

from adam.contract.records import Resume
from adam.contract.states import FailureClass, RunState
from adam.watchdog.pace import SHORTEST_S, checkpoint_interval_s
from adam.watchdog.policy_gpu import SURE_S
from adam.watchdog.policy_words import AskSettle, Decision, Launch, Reboot, Shutdown, Stage, Tell
from adam.watchdog.upload_policy import refused

TRIES_AN_HOUR = 8  # of a boot, at training without a GPU, where the sensors do not say so
SENSORS_S = 60.0  # … and after which they must have been heard where they do
ASKED_S = 10.0  # between two times that supervisord is asked, and more
UNTOLD = 6  # times that the same crash may come: three, and some from an older checkpoint
ATTEMPTS_AN_HOUR = 30  # with the back-off at its cap there are twelve, and some before it is
STANDSTILL_S = HOUR  # of a machine that could train, or forge
STOPPING_S = 600.0
MEMORY_BYTES = 16_384
LATE_S = 1800.0  # beyond two intervals: a commit that its watchdog did not outlive waits for the next
HOT_S = 30.0  # that a GPU may be too hot and work, with a watchdog that looks and a sensor that speaks
UPLOAD_S = (
    4 * HOUR
)  # of a Hub that is well: the hour between two uploads, the longest wait, the checkpoint's own interval


class Broken(AssertionError):
    """The policy has broken a promise."""


class Checks:
    """Looks on."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self.ledger = machine, Ledger()
        self.starts: deque[float] = deque()
        self.in_vain: deque[float] = deque(maxlen=100)  # … without a GPU
        self.restarts: Counter[str] = Counter()
        self.finals: Counter[str] = Counter()
        self.again: Counter[str] = Counter()  # steps, by why they are done again
        self.hangs = self.stuck = 0
        self.told_of: Crash | None = None  # that people were told of
        self.alerted = False  # … just now
        self.longest_outage = 0.0
        self.best = self.best_at_start = 0
        self.moved_to = self.moved_live_s = 0.0  # where training, or the forge, was last seen to leave
        self.down_able_s: float | None = None
        self.unwished_at = math.inf
        self.committed_able_s, self.committed_step = 0.0, -1
        self.hot_s = self.unsent_s = self.finished_s = 0.0
        self.final: RunState | None = None
        self.lately: deque[tuple[float, str]] = deque(maxlen=30)  # what was told, and what befell

    def fail(self, what: str) -> None:
        lately = "".join(f"\n    day {at / DAY:.4f} {words}" for at, words in self.lately)
        raise Broken(f"day {self.machine.t / DAY:.4f}: {what}; before that:{lately}")

    # ── time ──

    def passed(self, seconds: float) -> None:
        """Time went by, of which nothing changed in between."""
        machine = self.machine
        self.ledger.add(place(machine), seconds)
        watches = machine.watchdog.watches
        hot = machine.heat.hot and machine.trains and watches and machine.t >= machine.heat.blind_until
        self.hot_s = self.hot_s + seconds if hot else 0.0
        uploader = machine.watchdog.uploader
        newest = uploader.newest
        waits = watches and newest and ("weights", newest.checkpoint) not in machine.hub.there
        if waits and machine.hub.well(machine.t) and not refused(uploader.journal, uploader.key):
            self.unsent_s += seconds
        if uploader.arrived_at >= machine.t:
            self.unsent_s = 0.0
        if self.final == RunState.FINISHED and watches and machine.hub.well(machine.t):
            self.finished_s += seconds

    def progress(self) -> None:
        machine = self.machine
        if (trainer := machine.trainer) is not None:
            trainer.sync(machine.t)
            step = int(trainer.done)
            if trainer.beats and self.down_able_s is not None and step > 0:
                self.longest_outage = max(self.longest_outage, self.ledger.able_s - self.down_able_s)
                self.down_able_s = None
            self.best = max(self.best, step)
            self._moved(trainer.done)
        else:
            self.best = max(self.best, machine.died_at)
        if isinstance(machine.program, Forge):
            machine.program.sync(machine.t)
            self._moved(-machine.program.work)
        stood = self.ledger.live_s - self.moved_live_s
        if stood > STANDSTILL_S:
            self.fail(f"no step for {stood:.0f} s beyond {self.moved_to:.0f} though nothing stands in its way")
        if self.hot_s > HOT_S:
            self.fail(f"training on a GPU of {machine.heat.celsius(machine.t):.0f} °C for {self.hot_s:.0f} s")
        if self.unsent_s > UPLOAD_S:
            self.fail(f"no upload for {self.unsent_s:.0f} s though the Hub is well")
        if self.finished_s > UPLOAD_S:
            self.fail(f"a finished run has not ended for {self.finished_s:.0f} s")

    def _moved(self, place: float) -> None:
        if place != self.moved_to:
            self.moved_to, self.moved_live_s = place, self.ledger.live_s

    # ── decisions ──

    def decided(self, decision: Decision, past: Stage) -> None:
        machine = self.machine
        if decision.wake_at <= machine.now:
            self.fail(f"wake_at {decision.wake_at} is not after {machine.now}")
        for action in decision.actions:
            if isinstance(action, Tell):
                self.lately.append((machine.t, action.text))
            match action:
                case Launch(plan) if decision.memory.stage != past:
                    self._started(plan.resume, plan.program, decision)
                case Tell("hung"):
                    self._hung(action.text)
                case Tell("stuck", _, {"reason": reason}):
                    self._stuck(str(reason))
                case Tell("crashed"):
                    self._crashed(decision, action.facts)
                case AskSettle() if machine.program is not None:
                    self.fail("the keeper is to settle beside a living program")
                case Reboot(_, why):
                    self._reboots(why)
                case Shutdown() if decision.state == RunState.FINISHED:
                    self._closed()
        self._stops()
        self._commits(decision)
        self._uploads()
        if decision.state.final:
            self._final(decision)
        else:
            self.final = None

    def _stuck(self, reason: str) -> None:
        self.stuck += 1
        crash, machine = self.machine.crash, self.machine
        if reason == "not launched":
            if machine.t > machine.mute_until + ASKED_S:
                self.fail("people are told that supervisord is mute, and it is not")
        elif crash is not None and crash.times:
            self.told_of, self.alerted = crash, True
        elif machine.t - machine.mended_at > HOUR:
            self.fail(f"people are told that the run is stuck ({reason}), and it is not")

    def _hung(self, text: str) -> None:
        self.hangs += 1
        if self.machine.program is None or not self.machine.program.stuck:
            self.fail(f"a false hang: {text}")

    def _started(self, resume: Resume | None, program: str, decision: Decision) -> None:
        self._begins_well(resume)
        if program == "trainer":
            self._needs_a_gpu()
            self._loses_little(resume.step if resume is not None else 0, decision)
        self.best_at_start = self.best
        self.starts.append(self.machine.t)
        while self.starts[0] < self.machine.t - HOUR:
            self.starts.popleft()
        if len(self.starts) > ATTEMPTS_AN_HOUR:
            self.fail(f"a crash loop: {len(self.starts)} attempts within an hour")

    def _needs_a_gpu(self) -> None:
        """Without one hardly anything is tried: nothing in six hours where the sensors say so, little where they do not."""
        machine, card = self.machine, self.machine.card
        if not card.gone(machine.t):
            return
        gone_s, past = machine.t - card.gone_from, [at for at in self.in_vain if at >= card.gone_from]
        self.in_vain.append(machine.t)
        if (
            card.fault(machine.t)
            and gone_s > SENSORS_S
            and machine.t - max([*past, card.gone_from]) < SURE_S - SENSORS_S
        ):
            self.fail(
                f"an attempt in vain: the sensors have said for {gone_s:.0f} s that there is no GPU ({card.says})"
            )
        if sum(at > max(machine.t - HOUR, machine.booted_at) for at in self.in_vain) > TRIES_AN_HOUR:
            self.fail(f"more than {TRIES_AN_HOUR} attempts in vain within an hour: there is no GPU")

    def _reboots(self, why: str) -> None:
        """Bounded, never early, and with everything on disk."""
        machine, rules = self.machine, self.machine.watchdog.settings.reboot
        lately = [at for at, *_ in machine.reboots if at > machine.t - DAY + 1]
        if len(lately) > rules.per_day or machine.now < rules.uptime_s:
            self.fail(f"a reboot beyond the bounds: {len(lately)} in a day, {machine.now:.0f} s after the last boot")
        if not machine.card.gone(machine.t):
            self.fail(f"a reboot for nothing: {why}")
        saved = max((item.step for item in machine.disk.stored), default=0)
        if machine.program is None and machine.disk.memory and machine.disk.memory[0].step > saved:
            self.fail(f"a reboot while step {machine.disk.memory[0].step} is in memory only")

    def _begins_well(self, resume: Resume | None) -> None:
        """From a snapshot in memory, or from a checkpoint that a keeper said was right since this watchdog lives (where it waited for
        a GPU, that may be hours ago), and from no weights that are known to be spoilt."""
        machine = self.machine
        if resume is None:
            return
        if not resume.slot and resume.checkpoint not in machine.watchdog.keeper.told:
            self.fail(f"an attempt begins from {resume.checkpoint}, which is not verified")
        spoil = machine.spoil_of(resume)
        if spoil is not None and spoil.known:
            self.fail(f"an attempt begins from {resume.checkpoint}, which is spoilt since step {spoil.step}")

    def _loses_little(self, step: int, decision: Decision) -> None:
        """The death of processes costs the steps since the last snapshot in memory, unless the policy goes back on purpose."""
        machine, box = self.machine, self.machine.box
        lost, machine.died_at = machine.died_at - step, step
        if machine.gone_back:
            self.again["numbers went wrong"] += lost
        elif decision.memory.failures.older_tried:
            self.again["an older checkpoint was tried"] += lost
        elif machine.memory_lost:
            self.again["memory was lost"] += lost
        else:
            much = lost > box.snapshot_steps + math.ceil(box.drain_s / box.step_s) + 1
            self.again["a checkpoint went bad" if much and machine.rotted else "a process died"] += lost
            if much and not machine.rotted:
                self.fail(f"{lost} steps are lost with a process; there is a snapshot every {box.snapshot_steps}")
            machine.rotted = machine.rotted and not much
        machine.memory_lost = machine.gone_back = False

    def _crashed(self, decision: Decision, facts: dict[str, str | int | float | bool | None]) -> None:
        self.restarts[str(facts["failure"])] += 1
        if self.machine.crash is not None and facts["failure"] != FailureClass.GPU:
            self._crashes_again(self.machine.crash, (facts["step"], facts["detail"]))
        self.down_able_s = self.ledger.able_s if self.down_able_s is None else self.down_able_s
        wait = decision.memory.not_before - self.machine.now
        if self.best > self.best_at_start and wait > self.machine.watchdog.settings.backoff_seconds:
            self.fail(f"a back-off that is not reset: {wait:.1f} s after an attempt that came further")

    def _crashes_again(self, crash: Crash, ended: tuple[object, ...]) -> None:
        """A loop ends, or people hear of it."""
        crash.times = crash.times + 1 if ended == (crash.step, crash.detail) else 0
        if crash.times > UNTOLD and self.told_of is not crash:
            self.fail(f"a crash loop that nobody is told of: {crash.times} times {crash.detail} at step {crash.step}")

    def _stops(self) -> None:
        """Whoever asks for a stop gets it, the kernel willing."""
        machine = self.machine
        runs = machine.program is not None and machine.program.letter != "D"
        if machine.desired.running or not runs:
            self.unwished_at = math.inf
            return
        self.unwished_at = min(self.unwished_at, machine.t)
        if machine.t - self.unwished_at > STOPPING_S:
            asked = machine.t - self.unwished_at
            self.fail(f"a stop is forgotten: a program runs {asked:.0f} s after it was asked for")

    def _commits(self, decision: Decision) -> None:
        """The newest checkpoint is never much older than its interval while the disk takes any."""
        machine, memory = self.machine, decision.memory
        newest = machine.disk.stored[-1].step if machine.disk.stored else 0
        blocked = machine.t < max(machine.disk.full_until, machine.disk.slow_until)
        if newest != self.committed_step or blocked or not machine.trains:
            self.committed_step, self.committed_able_s = newest, self.ledger.able_s
        waited = self.ledger.able_s - self.committed_able_s
        if waited <= 2 * SHORTEST_S + LATE_S:
            return
        interval = checkpoint_interval_s(
            cost_s=machine.box.commit_s,
            size=machine.box.commit_bytes,
            failures=memory.reboots,
            watched_s=memory.watched_s + machine.now - memory.began,
            bytes_per_day=machine.watchdog.settings.write_bytes_per_day,
            minutes=0.0,
        )
        if waited > 2 * interval + LATE_S:
            self.fail(f"no checkpoint for {waited:.0f} s, where one is due each {interval:.0f} s")

    def _uploads(self) -> None:
        tries = self.machine.watchdog.uploader.tries
        if len(tries) > MOST_AN_HOUR and tries[-1] - tries[0] < HOUR:
            self.fail(f"more than {MOST_AN_HOUR} uploads in an hour")

    # ── ends ──

    def _final(self, decision: Decision) -> None:
        if not decision.reason:
            self.fail(f"a final state ({decision.state}) without a reason")
        if self.machine.program is not None:
            self.fail(f"the run is {decision.state}, and a program runs")
        if self.final is None:
            self.finals[decision.state.value] += 1
            if decision.state == RunState.FAILED and not self._is_hopeless(decision):
                self.fail(f"the run is given up ({decision.reason}), though trying again helps")
        self.final = decision.state
        self.check_size()

    def _is_hopeless(self, decision: Decision) -> bool:
        """True where something was planted that comes back until people mend it, or the program itself said that it is so."""
        if decision.memory.gpu is not None:  # reboots were asked for, and no GPU came of them
            return self.machine.card.gone(self.machine.t)
        match decision.memory.failures.kind:
            case FailureClass.CONFIG | FailureClass.DATA:
                return True
            case FailureClass.CODE:
                return self.machine.bug_at < math.inf
            case FailureClass.NUMERIC:
                return any(poison.sample < 0 for poison in self.machine.poisons)
        return False

    def _closed(self) -> None:
        """A finished run ends when its last checkpoint has arrived, or when people or the Hub will not have it."""
        machine, uploader = self.machine, self.machine.watchdog.uploader
        last = machine.disk.stored[-1].name
        arrived = ("weights", last) in machine.hub.there
        if machine.desired.running and not arrived and not refused(uploader.journal, uploader.key):
            self.fail(f"the run ends, and its last checkpoint {last} was never uploaded")

    def check_size(self) -> int:
        size = len(msgspec.json.encode(msgspec.to_builtins(self.machine.watchdog.memory)))
        if size > MEMORY_BYTES:
            self.fail(f"the policy's memory has grown to {size} bytes")
        return size
