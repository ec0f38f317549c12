"""The machine as a model: supervisord, launcher, lease, the program that runs, disk, GPU, Hub, and the clocks.

True time `t` runs on through everything; CLOCK_BOOTTIME starts again at each boot, and the wall clock jumps.
"""

import errno
import math
import signal
from dataclasses import dataclass

from msgspec.structs import replace
from sim_box import HOUR, MINUTE, World
from sim_gpu import Card
from sim_heat import Heat
from sim_keeper import Disk
from sim_numeric import BATCH, Poison, Spoil, trouble_of
from sim_program import Forge, Program
from sim_trainer import Trainer
from sim_upload import Hub
from sim_watchdog import Watchdog

from adam.contract.clock import Stamp
from adam.contract.reboots import RebootRules
from adam.contract.records import Desired, ExitReport, Plan, Resume
from adam.contract.shared import Pulse
from adam.contract.states import Exit, Phase
from adam.watchdog.detect import Trouble
from adam.watchdog.policy_words import LeaseSeen, Settings

LAUNCHER, CHILD = 10, 11
UP_BEFORE_S = 20.0  # of a boot, before the watchdog is started
NOWHERE = Stamp(0.0, "", 0.0)


@dataclass
class Crash:
    """An attempt ends by a signal (None: it stands still) at a step: this one, and each that begins from step `begins` or a later one."""

    step: int
    number: int | None
    attempt: int
    begins: int
    times: int = 0  # that the watchdog has told of it, with nothing else in between

    @property
    def detail(self) -> str:
        return "hang" if self.number is None else signal.Signals(self.number).name


class Machine:
    """One box and one run on it. What befalls it is done by `sim_faults`; what is found out is `sim_checks`'."""

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.box = world, world.box
        self.t, self.booted_at, self.boots, self.wall_shift = 100.0, 0.0, 0, 1.8e9
        self.off_until = 0.0  # it boots
        self.disk, self.hub, self.heat, self.card = Disk(), Hub(), Heat(self.t), Card()
        self.reboots: list[tuple[float, int, int]] = []  # that were asked for: when, on which boot, at which step
        self.data_ready, self.forged = False, 0.0
        self.desired = Desired(stamp=self.stamp)
        self.plan_file: Plan | None = None
        self.launching: tuple[Plan, float] | None = None
        self.program_at = math.inf  # when the program itself has something to do
        self.program: Program | None = None
        self.trainer: Trainer | None = None  # the program, where it is one
        self.lease: LeaseSeen | None = None
        self.report: ExitReport | None = None
        self.last_pulse: Pulse | None = None
        self.launcher_dumb = False  # it will neither tell of its program's end nor end itself
        self.freed_at = math.inf  # when a process in uninterruptible sleep can be killed
        self.mute_until = 0.0  # supervisord does not answer
        self.bad_until = 0.0  # the host kills every program until then
        self.bug_at = math.inf  # the code fails at this step until somebody mends it
        self.crash: Crash | None = None  # until somebody mends it
        self.mended_at = -math.inf
        self.poisons: list[Poison] = []
        self.spoil: Spoil | None = None  # the last one that was found
        self.trouble: Trouble | None = None  # as the log of steps shows it
        self.died_at = 0  # the step that the last trainer had come to
        self.memory_lost = self.gone_back = False  # since the last start: by the machine, by the policy
        self.rotted = False  # the newest checkpoint, and no attempt has lost steps to it yet
        self.reboot_at = math.inf
        self.refused_steps = 0  # that were lost with the memory, as a full disk had not taken them
        rules = RebootRules(per_day=world.reboots_per_day, uptime_s=HOUR)
        self.watchdog = Watchdog(
            self,
            Settings(
                steps=world.steps,
                seed=seed,
                batch_size=BATCH,
                micro_batch=BATCH,
                reboot=rules,
                reboot_after_s=15 * MINUTE,
            ),
        )

    # ── clocks ──

    @property
    def now(self) -> float:
        return self.t - self.booted_at

    @property
    def wall(self) -> float:
        return self.t + self.wall_shift

    @property
    def stamp(self) -> Stamp:
        return Stamp(self.wall, str(self.boots), self.now)

    @property
    def trains(self) -> bool:
        trainer = self.trainer
        return trainer is not None and trainer.phase is Phase.TRAINING and not trainer.stuck

    def next_at(self) -> float:
        """When something of the machine is due by itself, or a look is."""
        self.program_at = math.inf if self.program is None else self.program.next_at()
        launched = math.inf if self.launching is None else self.launching[1]
        own = min(self.freed_at, self.reboot_at, self.heat.next_at(), self.card.next_at(self.t))
        return min(own, self.watchdog.next_at(), launched, self.program_at)

    def move(self) -> None:
        """Do what is due at `t`."""
        self.watchdog.move()
        if self.launching is not None and self.t >= self.launching[1]:
            self._take_lease()
        if self.program is not None:
            self.program.move(self.t)
        if self.t >= self.freed_at:
            self.freed_at = math.inf
            self.free()
        if self.t < self.bad_until:
            self.kill_program()
        if self.t >= self.reboot_at:
            self.lose_power()
        self.heat.move(self.t, works=self.trains)

    def pulse(self) -> Pulse | None:
        """The pulse of the program, or of the last one: its file outlives it."""
        pulse = self.program.pulse(self.t) if self.program is not None else self.last_pulse
        if self.trainer is None or pulse is None or self.t >= self.disk.full_until:
            return pulse
        waiting = max(1, pulse.step - self.disk.full_step)
        return replace(pulse, unlogged=waiting, log_error=errno.ENOSPC)

    # ── supervisord and launcher ──

    def launch(self, plan: Plan) -> str:
        """Empty, or why nothing is started."""
        if self.t < self.mute_until:
            return "supervisord did not answer"
        self.plan_file = plan
        if self.launching is None and not (self.lease is not None and self.lease.launcher_alive):
            self.launching = (plan, self.t + self.box.launch_s)
        return ""

    def _take_lease(self) -> None:
        assert self.launching is not None and self.plan_file is not None
        self.launching = None
        assert self.program is None, "a twin: a program is started beside another"
        plan = self.plan_file
        self.lease = LeaseSeen(
            program=plan.program, attempt=plan.attempt, token=plan.token, launcher_pid=LAUNCHER,
            launcher_ticks=plan.token, child_pid=CHILD, child_ticks=plan.token, launcher_alive=True, child_alive=True,
        )  # fmt: skip
        self.watchdog.keeper.token, self.launcher_dumb = plan.token, False
        self.trainer = None if plan.program == "forge" else self._trainer(plan)
        self.program = self.trainer or self._forge(plan)
        if self.trainer is not None and self.card.gone(self.t):
            self.trainer.find_no_gpu()

    def _forge(self, plan: Plan) -> Forge:
        return Forge(plan, self.t, self.box, self.end_program, 0.0 if self.data_ready else self.forged)

    def _trainer(self, plan: Plan) -> Trainer:
        in_memory = plan.resume is None or bool(plan.resume.slot)
        crawls = self.box.crawl if self.t < self.disk.crawls_until else 1.0
        trainer = Trainer(
            plan, self.t, self.box, self.end_program,
            load_s=self.box.start_s if in_memory else self.box.load_s * crawls,
            trickles=not in_memory,
            readable=plan.resume is None or self._readable(plan.resume),
            spoil=self.spoil_of(plan.resume),
        )  # fmt: skip
        trainer.marks["end"] = (self.world.steps, trainer.finish)
        if self.bug_at < math.inf:
            trainer.marks["bug"] = (max(int(self.bug_at), trainer.base), lambda: self.end_program(Exit.CODE))
        self.expect_crash(trainer)
        trainer.expect(self.poisons, self._numbers_wrong)
        return trainer

    def expect_crash(self, trainer: Trainer) -> None:
        if self.crash is not None:
            trainer.marks["crash"] = (max(self.crash.step, trainer.base), lambda: self._crashes(trainer))

    def _crashes(self, trainer: Trainer) -> None:
        crash = self.crash
        if crash is None or (trainer.base < crash.begins and trainer.plan.attempt != crash.attempt):
            self.crash, self.mended_at = None, self.t  # it gets beyond
        elif crash.number is None:
            trainer.stuck = True
        else:
            self.end_program(number=crash.number)

    def poison(self, poison: Poison) -> None:
        self.poisons.append(poison)
        self.repeat_poisons()

    def repeat_poisons(self) -> None:
        """Tell a trainer that runs of the poisons there are now."""
        if self.trainer is not None:
            self.trainer.sync(self.t)
            self.trainer.expect(self.poisons, self._numbers_wrong)

    def _numbers_wrong(self, spoil: Spoil, found: int) -> None:
        """The log of steps has what makes a detector speak."""
        plan = self.program.plan
        self.spoil, self.trouble = spoil, trouble_of(spoil, found, plan.attempt, plan.skip)

    def forget_trouble(self) -> None:
        """A step of a later attempt in the log ends what was found in the one before."""
        trainer, trouble = self.trainer, self.trouble
        if trouble is not None and trainer is not None and trainer.plan.attempt > trouble.attempt:
            trainer.sync(self.t)
            self.trouble = None if trainer.done >= trainer.base + 1 else trouble

    def _readable(self, resume: Resume) -> bool:
        if resume.slot:
            return any(item.name == resume.checkpoint for item in self.disk.memory)
        stored = self.disk.find(resume.checkpoint)
        return stored is not None and stored.good

    def spoil_of(self, resume: Resume | None) -> Spoil | None:
        """What is wrong with the weights that an attempt begins from."""
        if resume is None:
            return None
        places = self.disk.memory if resume.slot else self.disk.stored
        return next((item.spoil for item in places if item.name == resume.checkpoint), None)

    def end_program(self, code: int | None = None, number: int | None = None, *, oom: bool = False) -> None:
        """The program ends, and its launcher tells of it."""
        program, lease = self.program, self.lease
        if program is None or lease is None:
            return
        self.show_memory()
        self.last_pulse = self.pulse()
        if isinstance(program, Forge):
            self.forged = program.kept
            self.data_ready = self.data_ready or (code == Exit.OK and self.forged >= self.box.forging_s - 1.0)
        elif isinstance(program, Trainer):
            self.died_at = int(program.done)
        self.program, self.trainer, self.freed_at = None, None, math.inf
        if self.launcher_dumb:
            self.lease = replace(lease, child_alive=False)
            return
        self.lease = replace(lease, launcher_alive=False, child_alive=False)
        if lease.launcher_alive:
            self.report = ExitReport(
                program=lease.program, attempt=lease.attempt, token=lease.token, pid=CHILD, code=code, signal=number,
                core=False, oom_killed=oom, max_rss_bytes=0, cpu_s=0.0, started=NOWHERE, ended=NOWHERE,
                tail=(f"exit code {code} after {self.last_pulse}",) if code is not None else (),
            )  # fmt: skip

    def show_memory(self) -> None:
        """Have shared memory hold what the trainer has put there by now; until its first one, what it began from."""
        if self.trainer is not None:
            self.trainer.sync(self.t)
            self.disk.memory = self.trainer.snapshots() or self.disk.memory

    def signal(self, pid: int, ticks: int, number: int) -> None:
        """kill(2), where the process is still the one that was meant."""
        if self.lease is None or ticks != self.lease.token:
            return
        if number == signal.SIGKILL:
            self.kill_program() if pid == CHILD else self.kill_launcher()
        elif number == signal.SIGTERM and self.program is not None:
            self.program.ask_to_stop(self.t)

    def sweep(self, token: int) -> None:
        if self.plan_file is not None and self.plan_file.token == token:
            self.launching = None
        if self.lease is not None and self.lease.token == token:
            self.kill_launcher()
            self.kill_program()

    def kill_program(self) -> None:
        """SIGKILL: at once, or when the kernel lets go of it."""
        if self.program is None:
            return
        if self.program.letter == "D":
            self.program.killed = True
        else:
            self.end_program(number=signal.SIGKILL)

    def free(self) -> None:
        """The kernel lets go of a process in uninterruptible sleep."""
        if self.program is not None:
            killed, self.program.letter = self.program.killed, "S"
            if killed:
                self.end_program(number=signal.SIGKILL)
            else:
                self.program.stuck, self.program.since = False, self.t

    def kill_launcher(self) -> None:
        """Its program dies with it, and nobody tells how."""
        if self.lease is None or not self.lease.launcher_alive:
            return
        self.launcher_dumb = False
        self.lease = replace(self.lease, launcher_alive=False, held=self.program is not None)
        self.kill_program()
        if self.program is None:
            self.lease = replace(self.lease, held=False)

    # ── deaths of more than one ──

    def kill_everybody(self) -> None:
        """supervisord ends, and nobody outlives it."""
        self.launching = None
        self.kill_launcher()

    def lose_memory(self) -> None:
        if self.t < self.disk.full_until and self.disk.memory:
            there = max([self.disk.full_step, *(item.step for item in self.disk.stored)])
            self.refused_steps += max(0, self.disk.memory[0].step - there)
        self.disk.memory.clear()
        self.memory_lost = True

    def lose_power(self) -> None:
        """Everything dies, memory is lost, the clock of decisions starts anew."""
        if self.program is not None:
            self.program.letter = "S"
        self.kill_everybody()
        self.lose_memory()
        self.disk.slow_until = min(self.disk.slow_until, self.t)
        self.off_until, self.reboot_at = self.t + self.box.boot_s, math.inf
        self.card.boots(self.off_until)
        if self.watchdog.up_at is not None:
            self.watchdog.end(self.box.boot_s, boots=True)

    def reboot(self, up_at: float) -> None:
        self.booted_at, self.boots = up_at - UP_BEFORE_S, self.boots + 1

    def sleep(self, seconds: float) -> None:
        """The machine is suspended: time goes on, nothing else does."""
        self.t += seconds
        self.freed_at += seconds
        if self.program is not None:
            self.program.sleep(seconds, self.t)
        if self.launching is not None:
            self.launching = (self.launching[0], self.launching[1] + seconds)
        self.watchdog.sleep(seconds)
