"""Where the time went. What the machine, people and the forge took is counted apart: no policy can train in it."""

from collections import Counter

from sim_machine import Machine

from adam.contract.states import Phase, RunState
from adam.watchdog.policy_words import Stage

# Training could have gone on in these, and went on in the first.
TRAINING = "training"
LOST = ("hung", "starting", "saving", "between attempts", "paused for nothing")
FORGING = "forging"
APART = (
    "machine off",
    "machine kills all",
    "crashes until mended",
    "process in the kernel",
    "disk refuses",
    "supervisord is mute",
    "too hot",
    "no GPU",
    "paused by people",
    "stopped by people",
    "failed, awaiting people",
    "finished, uploading",
    FORGING,
)


def place(machine: Machine) -> str:
    """What the time that begins now is to be called."""
    return _people(machine) or _crashes(machine) or _machine(machine) or _trainer(machine)


def _crashes(machine: Machine) -> str:
    return "crashes until mended" if machine.crash is not None and machine.crash.times else ""


def _people(machine: Machine) -> str:
    decision = machine.watchdog.decision
    if machine.t < machine.off_until:
        return "machine off"
    if not machine.desired.running:
        return "stopped by people"
    final = machine.watchdog.memory.final
    if machine.watchdog.up_at is None or (decision is not None and final == RunState.FAILED):
        return "failed, awaiting people"
    if final == RunState.FINISHED:
        return "finished, uploading"
    return "paused by people" if machine.desired.pauses else ""


def _machine(machine: Machine) -> str:
    program, disk = machine.program, machine.disk
    refuses = machine.t < disk.slow_until or (machine.t < disk.full_until and machine.watchdog.memory.settle_trouble)
    loading = machine.trainer is not None and machine.trainer.phase == Phase.LOADING
    settling = program is None and machine.watchdog.memory.stage == Stage.SETTLING
    reads = machine.t < disk.crawls_until and (loading or settling)
    if machine.t < machine.bad_until:
        return "machine kills all"
    if machine.t < machine.mute_until and program is None:
        return "supervisord is mute"
    if program is not None and program.letter == "D":
        return "process in the kernel"
    waits = machine.t < disk.full_until and machine.trainer is not None and machine.trainer.phase == Phase.PAUSED
    if (refuses and program is None) or reads or waits:
        return "disk refuses"
    unfit = "no GPU" if machine.card.gone(machine.t) and machine.data_ready else "too hot" if machine.heat.hot else ""
    if unfit and not machine.trains:
        return unfit
    return FORGING if not machine.data_ready and machine.trainer is None else ""


def _trainer(machine: Machine) -> str:
    if machine.trainer is None:
        return "between attempts"
    if machine.trainer.stuck:
        return "hung"
    match machine.trainer.phase:
        case Phase.TRAINING:
            return TRAINING
        case Phase.SAVING | Phase.ENDING:
            return "saving"
        case Phase.PAUSED:
            return "paused for nothing"
    return "starting"


class Ledger:
    """Seconds by name. `able_s`: in which training could have gone on; `live_s`: that and the forge's."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.able_s = self.live_s = 0.0

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] += seconds
        if name not in APART:
            self.able_s += seconds
        if name not in APART or name == FORGING:
            self.live_s += seconds

    def lost(self, useful_s: float) -> dict[str, float]:
        """Seconds of `able_s` in which no step was done that counts."""
        again = {"steps done again, stalls": self.seconds[TRAINING] - useful_s}
        return again | {name: self.seconds[name] for name in LOST}
