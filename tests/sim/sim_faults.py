"""What befalls a machine: each fault is a function of the machine and of chance; people are a fault too, and the ones who mend."""

import math
import random
import signal
from collections.abc import Callable

from msgspec.structs import replace
from sim_box import DAY, HOUR, MINUTE
from sim_machine import Crash, Machine
from sim_numeric import BATCH, STEPS_UNTIL_FOUND, Poison, position

from adam.contract.clock import Stamp
from adam.contract.states import FAILURE_OF_EXIT, Exit

WISH = Callable[[Machine], None]
KINDS = tuple(STEPS_UNTIL_FOUND)
CODES = (*FAILURE_OF_EXIT, Exit.OK, Exit.STOPPED, Exit.INTERRUPTED, 77)


class Faults:
    """The faults of one run, drawn from one seed. `people` are deeds to come: (when, what)."""

    def __init__(self, machine: Machine, seed: int) -> None:
        self.machine, self.chance = machine, random.Random(seed)
        self.kinds, self.weights = list(machine.world.mix), list(machine.world.mix.values())
        self.people: list[tuple[float, WISH]] = []
        self.happened: dict[str, int] = dict.fromkeys(self.kinds, 0)
        self.next_fault = self._draw_next()

    def _draw_next(self) -> float:
        return self.machine.t + self.chance.expovariate(self.machine.world.faults_a_day / DAY)

    def next_at(self) -> float:
        return min([self.next_fault, *(at for at, _ in self.people)])

    def move(self) -> str:
        """Do what is due; the name of the fault that happened, if one did."""
        machine, kind = self.machine, ""
        for deed in [item for item in self.people if item[0] <= machine.t]:
            self.people.remove(deed)
            deed[1](machine)
        if machine.t >= self.next_fault:
            kind = self.chance.choices(self.kinds, self.weights)[0]
            self.happened[kind] += 1
            getattr(self, kind)(machine)
            self.next_fault = self._draw_next()
        return kind

    def later(self, mean_s: float, deed: WISH) -> None:
        self.people.append((self.machine.t + self.chance.expovariate(1 / mean_s), deed))

    def soon(self, most_s: float, deed: WISH) -> None:
        self.people.append((self.machine.t + self.chance.uniform(0.1, most_s), deed))

    def span(self, mean_s: float) -> float:
        """Until when something lasts that begins now."""
        return self.machine.t + self.chance.expovariate(1 / mean_s)

    # ── processes ──

    def kill(self, machine: Machine) -> None:
        machine.kill_program()

    def signal(self, machine: Machine) -> None:
        number = self.chance.choice([signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGKILL])
        if machine.program is not None and machine.program.letter != "D":
            machine.end_program(number=number, oom=number == signal.SIGKILL)

    def exit(self, machine: Machine) -> None:
        if machine.program is not None and machine.program.letter == "S" and not machine.program.stuck:
            machine.end_program(code=int(self.chance.choice(CODES)))

    def hang(self, machine: Machine, letter: str = "S") -> None:
        """A deadlock, or a call that never comes back."""
        if machine.program is not None and not machine.program.stuck:
            machine.program.sync(machine.t)
            machine.program.stuck, machine.program.letter = True, letter

    def stopped(self, machine: Machine) -> None:
        self.hang(machine, "T")

    def uninterruptible(self, machine: Machine) -> None:
        """It waits for a device; the kernel lets go of it after some minutes."""
        if machine.program is not None and not machine.program.stuck:
            self.hang(machine, "D")
            machine.freed_at = self.span(10 * MINUTE)

    def launcher_killed(self, machine: Machine) -> None:
        machine.kill_launcher()

    def launcher_stuck(self, machine: Machine) -> None:
        """The program ends, and its launcher stands on a disk that does not answer."""
        if machine.program is not None and machine.program.letter != "D":
            machine.launcher_dumb = True
            machine.end_program(number=signal.SIGKILL)

    def keeper(self, machine: Machine) -> None:
        if machine.watchdog.watches and machine.watchdog.keeper.alive:
            machine.watchdog.keeper.die(machine.t)

    def keeper_stopped(self, machine: Machine) -> None:
        if machine.watchdog.watches and machine.watchdog.keeper.alive:
            machine.watchdog.keeper.stop()

    def uploader(self, machine: Machine) -> None:
        if machine.watchdog.watches:
            machine.watchdog.uploader.die(machine.t)

    def watchdog(self, machine: Machine) -> None:
        if machine.watchdog.watches:
            machine.watchdog.end(machine.box.watchdog_s)

    def amnesia(self, machine: Machine) -> None:
        """It dies, and what it wrote can't be read."""
        if machine.watchdog.watches:
            machine.watchdog.end(machine.box.watchdog_s, amnesia=True)
            if machine.crash is not None:
                machine.crash.times = 0

    def supervisord(self, machine: Machine) -> None:
        """Everybody dies; systemd starts everything anew."""
        if machine.watchdog.watches:
            machine.kill_everybody()
            machine.watchdog.end(machine.box.up_s)

    def supervisord_mute(self, machine: Machine) -> None:
        """It lives and does not answer, and then the program dies."""
        machine.mute_until = self.span(10 * MINUTE)
        machine.kill_program()

    # ── the machine ──

    def slow_disk(self, machine: Machine) -> None:
        """An fsync that does not come back for a while."""
        machine.disk.slow_until = self.span(20 * MINUTE)

    def slow_reads(self, machine: Machine) -> None:
        """Bytes come, a fortieth of them."""
        machine.disk.crawls_until = self.span(HOUR)

    def full_disk(self, machine: Machine) -> None:
        """Rows of the log of steps wait in memory; now and then so long that no more of them may."""
        if machine.t >= machine.disk.full_until:
            machine.disk.full_step = int(machine.trainer.done) if machine.trainer is not None else machine.died_at
        machine.disk.full_until = self.span(3 * HOUR if self.chance.random() < 0.99 else 36 * HOUR)

    def reboot(self, machine: Machine) -> None:
        machine.lose_power()

    def suspend(self, machine: Machine) -> None:
        machine.sleep(self.chance.expovariate(1 / HOUR))

    def suspend_starting(self, machine: Machine) -> None:
        """While the next attempt is being settled, launched or loaded."""
        machine.kill_program()
        self.soon(6.0, self.suspend)

    def clock(self, machine: Machine) -> None:
        machine.wall_shift += self.chance.choice([-DAY, DAY])

    def rot(self, machine: Machine) -> None:
        """The newest checkpoint's bytes change, where there is an older one."""
        good = [item for item in machine.disk.stored if item.good]
        if len(good) > 1:
            good[-1].good = False
            machine.rotted = True

    def memory_lost(self, machine: Machine) -> None:
        """Somebody removes what is in shared memory, and the trainer with it."""
        machine.kill_program()
        if machine.program is None:
            machine.lose_memory()

    def bad_host(self, machine: Machine) -> None:
        """Whatever starts is killed, for hours."""
        machine.bad_until = self.span(2 * HOUR)
        machine.kill_program()

    def bug(self, machine: Machine) -> None:
        """The code fails at a step not far off, every time, until somebody mends it."""
        if (trainer := machine.trainer) is not None:
            trainer.sync(machine.t)
            machine.bug_at = int(trainer.done) + self.chance.randrange(2, 500)
            trainer.marks["bug"] = (int(machine.bug_at), lambda: machine.end_program(Exit.CODE))

    def crash(self, machine: Machine) -> None:
        """Like that, by a signal or by standing still; sometimes for what it began from, so that an older checkpoint gets beyond it."""
        if (trainer := machine.trainer) is not None and machine.crash is None:
            trainer.sync(machine.t)
            newest = max((item.step for item in machine.disk.stored), default=0)
            machine.crash = Crash(
                step=int(trainer.done) + self.chance.randrange(2, 500),
                number=self.chance.choice([signal.SIGSEGV, signal.SIGABRT, None]),
                attempt=trainer.plan.attempt,
                begins=newest + 1 if self.chance.random() < 0.5 else 0,
            )
            machine.expect_crash(trainer)

    def poison(self, machine: Machine) -> None:
        """Data not far ahead that spoil whoever trains on them."""
        if (trainer := machine.trainer) is not None:
            trainer.sync(machine.t)
            index = (int(trainer.done) + self.chance.randrange(2, 500)) * BATCH + self.chance.randrange(BATCH)
            machine.poison(Poison(self.chance.choice(KINDS), position(index, trainer.plan.skip)))

    def unstable(self, machine: Machine) -> None:
        """Training goes wrong at a step, whatever the data are, until somebody mends it."""
        if (trainer := machine.trainer) is not None:
            trainer.sync(machine.t)
            machine.poison(Poison(self.chance.choice(KINDS), -1, int(trainer.done) + self.chance.randrange(2, 500)))

    def data_gone(self, machine: Machine) -> None:
        """Somebody deletes shards and tokens: who has them open goes on, the next attempt has none."""
        machine.data_ready, machine.forged = False, 0.0

    def heat(self, machine: Machine) -> None:
        machine.heat.broken_until = self.span(2 * HOUR)

    def blind(self, machine: Machine) -> None:
        """The sensors say nothing; sometimes while the GPU is hot."""
        machine.heat.blind_until = self.span(20 * MINUTE)

    def gpu_gone(self, machine: Machine) -> None:
        """It falls off the bus, and who trains on it dies or stands still; or the driver is changed, and who starts finds none."""
        says = self.chance.choice(["lost", "lost", "mismatch", ""])
        for_ever = self.chance.random() < 0.7  # before the next boot
        machine.card.lose(machine.t, math.inf if for_ever else self.span(3 * HOUR), says)
        if machine.trainer is None or machine.trainer.letter == "D":
            pass
        elif says == "mismatch":
            self.later(HOUR, self.kill)
        elif self.chance.random() < 0.3:
            self.uninterruptible(machine)
        else:
            machine.end_program(code=Exit.CODE)
        if for_ever:
            self.later(8 * HOUR, self.boot_for_gpu)

    def boot_for_gpu(self, machine: Machine) -> None:
        """Somebody has read the reason."""
        if machine.card.gone(machine.t):
            machine.lose_power()

    # ── the Hub ──

    def hub_away(self, machine: Machine) -> None:
        machine.hub.away_until = self.span(12 * HOUR)

    def hub_stalls(self, machine: Machine) -> None:
        machine.hub.stalls_until = self.span(12 * HOUR)

    def hub_busy(self, machine: Machine) -> None:
        machine.hub.busy_until = self.span(20 * MINUTE)

    def hub_refuses(self, machine: Machine) -> None:
        """A token has expired, until somebody puts another one in its place."""
        machine.hub.refuses = True
        self.later(12 * HOUR, lambda machine: machine.watchdog.uploader.mend(machine.t))

    def hub_mute(self, machine: Machine) -> None:
        """A commit is taken, and nobody hears of it."""
        machine.hub.mute = True

    # ── people ──

    def pause(self, machine: Machine) -> None:
        machine.desired = replace(machine.desired, pauses=("human",))
        self.later(HOUR, lambda machine: self.wish(machine, pauses=()))

    def save(self, machine: Machine) -> None:
        machine.desired = replace(machine.desired, saves=machine.desired.saves + 1)

    def down(self, machine: Machine) -> None:
        self.wish(machine, running=False)
        self.later(2 * HOUR, self.up)
        if self.chance.random() < 0.5:  # the watchdog dies while it stops the run
            self.soon(3.0, self.watchdog)

    def up(self, machine: Machine) -> None:
        """Somebody has looked, mended what failed, and wants the run to go on."""
        machine.bug_at, machine.crash, machine.mended_at = float("inf"), None, machine.t
        machine.poisons = [poison for poison in machine.poisons if poison.sample >= 0]
        if machine.trainer is not None:
            machine.trainer.marks.pop("bug", None)
            machine.trainer.marks.pop("crash", None)
            machine.repeat_poisons()
        self.wish(machine, running=True)
        if machine.watchdog.up_at is None:
            machine.watchdog.end(machine.box.up_s)

    def wish(self, machine: Machine, **fields: object) -> None:
        machine.desired = replace(machine.desired, stamp=Stamp(machine.wall, "", machine.now), **fields)
