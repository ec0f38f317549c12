"""A run that was on GPUs, and a machine that has none to train on: no restart can help, so none is tried. Pure.

The sensors are believed where they say what is wrong with every GPU: then an attempt is begun only once in SURE_S, as a broken sensor must
not hold training for ever. Where they can't tell, it is the trainer that says so (exit code GPU), and the next attempts come at a growing,
slow pace. What ends for this counts as no failure of training. As soon as the sensors see a GPU that is well again, training goes on.

A trainer that lives is left alone whatever the sensors say. Where people want it, a reboot is asked of systemd, at most so many a day.
"""

from msgspec.structs import replace

from adam.contract.reboots import DAY_S, wait_s
from adam.contract.states import FailureClass
from adam.watchdog.policy_turn import Turn
from adam.watchdog.policy_words import GpuWait, Observation, Reboot

SURE_S = 6 * 3600.0
PACE_S, LONGEST_PACE_S = 60.0, 1800.0
UNANSWERED_S = 900.0  # after which a machine that runs on has not heard that it is to be restarted
ASK_AGAIN_S = 3600.0  # … or has refused
FAULTS = {
    "mismatch": "the NVIDIA driver was changed under the run (its library and its kernel module differ): load the new module, or reboot",
    "reset": "the GPUs need a reset: nvidia-smi --gpu-reset as root, or reboot",
}
RECOVERIES = {  # that stand in the way of any program; what else the driver wants can wait
    "reset": "GPU {0} needs a reset: nvidia-smi --gpu-reset -i {0} as root, or reboot",
    "bus reset": "GPU {0} needs a reset of its bus: reboot",
    "reboot": "GPU {0} can't be used before the machine is rebooted",
}
FALLEN = "{0} fell off the bus{1}: reboot; where that does not help, switch the machine off, and reseat the card and its power"


def trouble(seen: Observation) -> str:
    """What is wrong with all GPUs, and what to do about it; empty: one can be trained on, or nothing is known."""
    if seen.gpu_fault == "lost":
        return fallen(seen) or FALLEN.format("every GPU", "")
    if seen.gpu_fault:
        return FAULTS[seen.gpu_fault]
    if seen.sensors != "ok" or any(gpu.recovery not in RECOVERIES for gpu in seen.gpus):
        return ""
    sick = [RECOVERIES[gpu.recovery].format(gpu.index) for gpu in seen.gpus if gpu.recovery]
    sick += [fallen(seen)] if seen.lost else []
    return "; ".join(sick) or "NVML sees no GPU any more: reboot, and look after the cards"


def fallen(seen: Observation) -> str:
    """What is to be said of the GPUs that are lost; empty: nobody knows which."""
    codes = sorted({xid.code for xid in seen.xids if xid.gpu in seen.lost})
    which = ("GPU " if len(seen.lost) == 1 else "GPUs ") + ", ".join(map(str, seen.lost))
    return FALLEN.format(which, f" (Xid {', '.join(map(str, codes))})" if codes else "") if seen.lost else ""


def is_well(seen: Observation) -> bool:
    return seen.sensors == "ok" and not trouble(seen)


def needed(turn: Turn) -> bool:
    """True where this run trains on a GPU, and nothing else will do."""
    device = turn.settings.device
    return device == "cuda" or (device == "auto" and turn.seen.trained_on.startswith("cuda"))


def is_to_blame(turn: Turn, kind: FailureClass) -> bool:
    """True where an attempt has ended for want of a GPU, or could not but end while there was none."""
    if turn.plan.program != "trainer":
        return False
    gone = kind in (FailureClass.HOST, FailureClass.CODE) and needed(turn) and bool(trouble(turn.seen))
    return kind == FailureClass.GPU or gone


def miss(turn: Turn, text: str, detail: str, step: int, facts: dict[str, str | int | float | bool | None]) -> None:
    """The attempt is over, and it was not its fault."""
    wait = replace(turn.memory.gpu or GpuWait(since=turn.now), well=is_well(turn.seen), last=text)
    if not turn.memory.listening.trained:
        wait = replace(wait, tries=wait.tries + 1, tried=turn.now)
    turn.set(gpu=wait, not_before=turn.now, crashed=True)
    turn.tell("crashed", text, failure=FailureClass.GPU.value, detail=detail, step=step, **facts)


def next_try(turn: Turn, wait: GpuWait) -> float:
    """When the next attempt may begin."""
    last = max(wait.since, wait.tried)
    if trouble(turn.seen):
        return last + SURE_S
    if is_well(turn.seen) and not wait.well:
        return wait.tried + PACE_S if wait.tries else 0.0
    return last + min(LONGEST_PACE_S, PACE_S * 2.0 ** min(max(0, wait.tries - 1), 60))


def stands_still(turn: Turn) -> bool:
    """True while no attempt at training may begin for want of a GPU. Told when that begins, changes and ends."""
    wait = turn.memory.gpu
    if turn.settings.device == "cpu" or (wait is None and not (needed(turn) and trouble(turn.seen))):
        turn.set(gpu=None)
        return False
    wait = wait or GpuWait(since=turn.now)
    at = next_try(turn, wait)
    if turn.now >= at:
        if wait.text:
            turn.tell("gpu", "a GPU is tried again: the next attempt begins", reason="tried again")
        turn.set(gpu=replace(wait, text=""))
        return False
    turn.wake(at)
    stand(turn, wait)
    return True


def stand_by(turn: Turn) -> None:
    """A program that hangs does not die: likewise, where it is for want of a GPU. Drivers keep those that used one which is gone."""
    if turn.plan.program == "trainer" and needed(turn) and trouble(turn.seen):
        stand(turn, turn.memory.gpu or GpuWait(since=turn.now))


def stand(turn: Turn, wait: GpuWait) -> None:
    """Say why training waits, and ask for a reboot where that is due."""
    sick = trouble(turn.seen)
    text = f"{sick}; training waits" if sick else f"{wait.last}; training waits, and tries again at times"
    turn.set(gpu=replace(wait, text=text))
    if text != wait.text:
        turn.tell("gpu", text, reason="training waits", fault=turn.seen.gpu_fault)
    if turn.settings.reboot.per_day and not is_well(turn.seen) and not turn.seen.desired.pauses:
        reboot_if_due(turn, sick or wait.last)


def reboot_if_due(turn: Turn, why: str) -> None:
    """Ask systemd for a reboot, or end the run where reboots have not helped."""
    wait, asked, settings = turn.memory.gpu, turn.seen.reboots, turn.settings
    if wait is None or asked is None:
        turn.note("no reboot is asked for: run/reboots.json can't be read, and so they can't be counted")
        return
    step = furthest(turn)
    done = [item for item in asked if item.age_s < DAY_S and not item.this_boot]
    if len(done) >= settings.reboot.per_day and all(item.step >= step for item in done[-settings.reboot.per_day :]):
        times = f"{len(done)} reboots within a day" if len(done) > 1 else "a reboot"
        turn.set(verdict=f"{why}; {times} did not help, and no step was trained since")
        return
    if any(item.this_boot and item.age_s > UNANSWERED_S for item in asked):
        turn.note("a reboot was asked for and has not come: `adamctl systemd install --reboot` installs who does it")
    due = max(wait.since + settings.reboot_after_s, wait.asked + ASK_AGAIN_S if wait.asked else 0.0)
    at = max(due, turn.now + wait_s(settings.reboot, [item.age_s for item in asked], turn.now))
    if turn.now < at or not is_safe(turn):
        turn.wake(at)
        return
    turn.set(gpu=replace(wait, asked=turn.now))
    turn.act(Reboot(step, why))
    turn.tell("reboot", f"a reboot is asked of systemd: {why}", step=step, reason="asked")


def furthest(turn: Turn) -> int:
    """The furthest step that is known of: the policy's memory may have been lost."""
    kept = max((item.step for item in turn.seen.checkpoints), default=0)
    return max(turn.memory.best, kept)


def is_safe(turn: Turn) -> bool:
    """True where nothing is in memory that is not on disk: a reboot empties it."""
    settled = turn.memory.settled
    return settled is None or settled.snapshot is None


def went_on(turn: Turn) -> None:
    """Training has come to its steps again."""
    if turn.memory.gpu is not None and turn.memory.listening.trained and turn.memory.hang is None:
        turn.set(gpu=None)
