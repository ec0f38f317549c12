"""A run from its first step to its last, through everything that befalls the machine meanwhile. One seed replays it exactly."""

import math
import time
from dataclasses import dataclass

from sim_box import DAY, HOUR, World
from sim_checks import Checks
from sim_faults import Faults
from sim_ledger import TRAINING
from sim_machine import Machine

from adam.contract.states import RunState
from adam.watchdog.policy_words import Stage

MOST_TIMES = 3.0  # as long as the steps take, a run may last with people and everything
SHORTEST_S = 1e-3  # between two decisions: two clocks that differ by a constant round differently


@dataclass(frozen=True)
class Summary:
    days: float
    goodput: float  # of the time in which training could have gone on
    share: float  # of all time
    lost: dict[str, float]  # seconds of the time in which training could have gone on
    apart: dict[str, float]  # … and of the rest
    again: dict[str, int]  # steps that were done again, by why
    faults: dict[str, int]
    hangs: int
    stuck: int  # times that people were told so
    restarts: dict[str, int]
    finals: dict[str, int]
    longest_outage_s: float
    uploads: int
    decisions: int
    memory_bytes: int
    cpu_s: float

    @property
    def days_a_minute(self) -> float:
        return self.days / self.cpu_s * 60.0


def simulate(world: World, seed: int) -> Summary:
    """Run it. Raises Broken where the policy breaks a promise."""
    began = time.process_time()
    machine = Machine(world, seed)
    faults, checks = Faults(machine, seed), Checks(machine)
    start, most = machine.t, MOST_TIMES * world.days * DAY + 10 * DAY
    while checks.final != RunState.FINISHED or machine.watchdog.up_at is not None:
        turn(machine, faults, checks)
        if machine.t - start > most:
            checks.fail(f"the run does not come to its end: step {checks.best} of {world.steps}")
    useful, ledger = world.steps * world.box.step_s, checks.ledger
    refused = machine.refused_steps * world.box.step_s
    lost = ledger.lost(useful + refused)
    apart = {name: seconds for name, seconds in ledger.seconds.items() if name not in lost and name != TRAINING}
    return Summary(
        days=(machine.t - start) / DAY,
        goodput=useful / (ledger.able_s - refused),
        share=useful / (machine.t - start),
        lost=lost,
        apart=apart | {"lost behind a full disk": refused},
        again=dict(checks.again),
        faults=faults.happened,
        hangs=checks.hangs,
        stuck=checks.stuck,
        restarts=dict(checks.restarts),
        finals=dict(checks.finals),
        longest_outage_s=checks.longest_outage,
        uploads=machine.hub.commits,
        decisions=machine.watchdog.decisions,
        memory_bytes=checks.check_size(),
        cpu_s=time.process_time() - began,
    )


def turn(machine: Machine, faults: Faults, checks: Checks) -> None:
    """The watchdog decides, then time goes to the next thing that it would look at."""
    watchdog = machine.watchdog
    if watchdog.watches:
        past = watchdog.memory.stage
        checks.decided(watchdog.decide(), past)
        if checks.alerted or (checks.final == RunState.FAILED and watchdog.up_at is None):
            checks.alerted = False
            faults.later(4 * HOUR, faults.up)
        if checks.final == RunState.FINISHED and watchdog.up_at is None:
            return
    while advance(machine, faults, checks) and watchdog.memory.stage == Stage.RUNNING:
        pass


def advance(machine: Machine, faults: Faults, checks: Checks) -> bool:
    """To the next thing that happens. True where it is nothing that the policy acts on."""
    shown, trained = _shown(machine), machine.trains
    machine_at, fault_at = machine.next_at(), faults.next_at()
    watchdog = machine.watchdog
    own_at, keeper_at, uploads_at = machine.program_at, watchdog.keeper_at, watchdog.uploads_at
    at = min(machine_at, fault_at)
    assert at < math.inf
    checks.passed(max(SHORTEST_S, at - machine.t))
    machine.t = max(machine.t + SHORTEST_S, at)
    machine.move()
    checks.progress()
    if at >= fault_at:
        befall(machine, faults, checks)
    trains_on = trained and machine.trains and _shown(machine) == shown
    return at == uploads_at or (trains_on and at in (own_at, keeper_at))


def befall(machine: Machine, faults: Faults, checks: Checks) -> None:
    """What is due of faults and people. A machine that was asleep is later then."""
    then = machine.t
    if kind := faults.move():
        checks.lately.append((then, f"({kind})"))
    if machine.t > then:
        checks.ledger.add("machine off", machine.t - then)
    machine.heat.move(machine.t, works=machine.trains)


def _shown(machine: Machine) -> tuple[object, ...]:
    """What the watchdog acts on at once."""
    trainer, keeper = machine.trainer, machine.watchdog.keeper
    complete = trainer.complete if trainer is not None else 0
    return (trainer, complete, machine.trouble, keeper.trouble, keeper.saves, keeper.alive)
