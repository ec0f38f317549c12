"""A box with a GPU: how long things take on it, as measured, and what befalls it."""

import math
from dataclasses import dataclass, field

from adam.trainer.pace import steps_between

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


@dataclass(frozen=True)
class Box:
    """Seconds as measured for 2.7B on an H200 and on two cores (docs/benchmarks.md)."""

    step_s: float = 1.0
    micro_s: float = 0.5  # until a running program reads a new control word
    launch_s: float = 0.2  # supervisord and launcher
    mute_s: float = 0.3  # from a program's start to its first sign of life
    start_s: float = 4.8  # from there to the first update, where the state lies in memory
    load_s: float = 22.0  # … and where it lies on disk
    stall_s: float = 0.03  # that a snapshot stops training
    drain_s: float = 0.6  # until it is complete
    commit_s: float = 25.0  # 33 GB from memory to disk
    commit_bytes: int = 33_200_000_000
    verify_s: float = 15.0
    crawl: float = 40.0  # times as long, where a disk gives 40 MB a second
    answer_s: float = 0.1  # of a keeper that has nothing to copy
    bundle_s: float = 2.0  # that a bundle of a hang takes
    stop_s: float = 2.0
    keeper_s: float = 0.25  # until a dead keeper is replaced
    watchdog_s: float = 1.8
    up_s: float = 3.0  # until systemd has started everything anew
    boot_s: float = 90.0
    import_s: float = 3.0  # until a trainer finds that there is no GPU
    weights_s: float = 110.0  # 5.4 GB to the Hub
    state_s: float = 660.0  # 33 GB
    read_s: float = 10 * MINUTE  # the forge: sources to shards,
    learn_s: float = 5 * MINUTE  # the tokenizer, in one long call,
    encode_s: float = 15 * MINUTE  # and tokens

    @property
    def snapshot_steps(self) -> int:
        return steps_between(self.stall_s, self.step_s)

    @property
    def forging_s(self) -> float:
        return self.read_s + self.learn_s + self.encode_s


# How often each fault happens, beside the others.
MIX: dict[str, float] = {
    "kill": 20,
    "signal": 14,
    "exit": 14,
    "hang": 10,
    "stopped": 2,
    "uninterruptible": 2,
    "launcher_killed": 4,
    "launcher_stuck": 2,
    "keeper": 5,
    "keeper_stopped": 1,
    "slow_disk": 3,
    "slow_reads": 1,
    "full_disk": 3,
    "watchdog": 6,
    "amnesia": 1,
    "supervisord": 3,
    "supervisord_mute": 1,
    "reboot": 2,
    "suspend": 2,
    "suspend_starting": 1,
    "clock": 4,
    "rot": 1,
    "memory_lost": 2,
    "bad_host": 1,
    "bug": 0.5,
    "crash": 0.6,
    "poison": 2,
    "unstable": 0.3,
    "data_gone": 0.5,
    "heat": 2,
    "blind": 2,
    "gpu_gone": 1,
    "hub_away": 3,
    "hub_stalls": 1,
    "hub_busy": 1,
    "hub_refuses": 1,
    "hub_mute": 2,
    "uploader": 3,
    "pause": 3,
    "save": 4,
    "down": 2,
}


@dataclass(frozen=True)
class World:
    """What a simulation is told beside its seed."""

    days: float  # that the steps would take if nothing ever happened
    faults_a_day: float = 1.0
    box: Box = field(default_factory=Box)
    mix: dict[str, float] = field(default_factory=lambda: dict(MIX))
    reboots_per_day: int = 0  # that the run may ask for; 0: people are left to do it

    @property
    def steps(self) -> int:
        return math.ceil(self.days * DAY / self.box.step_s)
