"""The JSON files of `run/`. Each has one writer, named in its docstring."""

from pathlib import Path
from typing import Any

import msgspec

from adam.contract.clock import Stamp
from adam.contract.schema import Record, decode
from adam.contract.states import RunState


class Desired(Record, frozen=True, kw_only=True):
    """What people want (writer: adamctl). Training goes on when `pauses` is empty; `saves` counts requests to save."""

    running: bool = True
    pauses: tuple[str, ...] = ()
    saves: int = 0
    stamp: Stamp | None = None


class Resume(msgspec.Struct, frozen=True):
    """Where an attempt starts from."""

    checkpoint: str  # its name in checkpoints/, or what a snapshot's name there would be
    step: int
    slot: str = ""  # the snapshot's directory, where it is read from there


class Plan(Record, frozen=True, kw_only=True):
    """What the next or present attempt is to do (writer: watchdog, by its policy)."""

    program: str  # forge or trainer
    attempt: int
    token: int  # fencing: grows with every plan
    resume: Resume | None = None
    skip: tuple[tuple[int, int], ...] = ()  # half-open ranges of data positions that are not trained on
    micro_batch: int = 0  # 0: as configured
    lr_factor: float = 1.0
    sound: int = 0  # up to this step all is known to come of a chip that computed right
    backend: str = ""  # empty: as configured
    fresh: bool = False  # the program is to share nothing with the one before
    death_interval_s: float = 0.0  # between the deaths of processes that were seen lately; 0: they are rare
    why: str = ""
    stamp: Stamp | None = None


class Lease(Record, frozen=True, kw_only=True):
    """Who holds the run (writer: the launcher that holds the flock on this file).

    A launcher whose attempt is over and which waits for the next plan gives its place up: `launcher_pid` is 0, `waiting_pid` its own.
    """

    run: str = ""  # the run directory's identity; empty: of an Adam that did not write it
    program: str
    token: int
    attempt: int
    launcher_pid: int
    launcher_ticks: int
    child_pid: int = 0
    child_ticks: int = 0
    waiting_pid: int = 0
    waiting_ticks: int = 0
    stamp: Stamp


class ExitReport(Record, frozen=True, kw_only=True):
    """How an attempt ended (writer: launcher). Exactly one of `code` and `signal` is set."""

    program: str
    attempt: int
    token: int
    pid: int
    code: int | None
    signal: int | None
    core: bool
    oom_killed: bool
    max_rss_bytes: int
    cpu_s: float
    started: Stamp
    ended: Stamp
    tail: tuple[str, ...]  # the last lines of its log


class StepRow(Record, frozen=True, kw_only=True):
    """A line of `steps.jsonl` (writer: trainer rank 0): one optimizer update. None stands for a number that is not finite."""

    attempt: int
    step: int
    tokens: int  # trained on since the start of the run, this step included
    first_sample: int  # data positions of this update: first_sample <= position < end_sample
    end_sample: int
    loss: float | None  # nats per token
    grad_norm: float | None
    lr: float
    step_s: float  # wall-clock seconds of the update, without validation and saving
    data_wait_s: float
    val_loss: float | None = None  # nats per token
    val_bits_per_byte: float | None = None
    val_s: float | None = None  # seconds that the validation took, in whichever processes
    entropy: float | None = None  # of the predictions, nats a token; with a validation, over its first window
    logits_norm: float | None = None  # Euclidean, mean over the same tokens
    sound: int | None = (
        None  # computed twice, this update came out differently; up to that step all is known to be right
    )
    wall: float
    boottime: float


class Numerics(Record, frozen=True, kw_only=True):
    """What decides the bits of an attempt (`run/numerics.json`; writer: trainer, at its start)."""

    attempt: int
    step: int
    fingerprint: str  # a digest of `parts`
    parts: dict[str, str]  # backend, device, precision, threads, micro_batch, torch, …


class KernelChecks(Record, frozen=True, kw_only=True):
    """Backends that have passed their self-check (`run/kernels.json`; writer: trainer, at its start)."""

    passed: list[str]  # backend, GPU, driver, versions, precision, states: one line each
    begun: dict[str, int] = {}  # such a line -> how often its self-check began and did not come back


class BackendReport(Record, frozen=True, kw_only=True):
    """Who computes the selective scan of an attempt (`run/backend.json`; writer: trainer, at its start)."""

    attempt: int
    name: str  # native, mamba_ssm or torch
    failed: tuple[str, ...] = ()  # faster ones that failed their self-check: "native: the gradient of B is …"
    recompute: bool = False  # the states of scans are not kept for the backward, but computed again


class Fitted(msgspec.Struct, frozen=True):
    """A way to compute an update that was tried: so many samples at once, and what the backward computes again."""

    micro_batch: int
    again: str  # "" (nothing), "inputs" (of scans), "states" (and these), or "blocks" (all but their inputs)
    seconds: float = 0.0  # of a sample, forward and backward; 0: it did not fit
    peak: int = 0  # bytes that training takes at most, gradients and moments included; 0: not known
    layers: int = 0  # whose states are computed again; 0: all


class Fit(Record, frozen=True, kw_only=True):
    """What was measured at a start with `trainer.fit = "auto"`, and what was chosen (`run/fit.json`; writer: trainer)."""

    key: str  # a digest of all that it holds for: GPU, driver, torch, configuration
    attempt: int  # that measured it
    room: int  # bytes that training may take in all
    copy: int  # bytes of a snapshot's copy on the device
    measured: tuple[Fitted, ...]
    chosen: Fitted
    out_of_memory: tuple[Fitted, ...] = ()  # chosen once, and it did not fit in training


class Staging(Record, frozen=True, kw_only=True):
    """Where an attempt writes its snapshots (`run/staging.json`; writer: trainer, at its start)."""

    attempt: int
    tier: str  # ram, or disk
    why: str  # not in RAM; empty where it is, or where nobody wanted it
    slots: int
    slot_bytes: int


class CheckpointSeen(msgspec.Struct, frozen=True):
    """A checkpoint as the keeper last knew it."""

    name: str
    step: int
    verified: bool
    stamp: Stamp


class SnapshotSeen(msgspec.Struct, frozen=True):
    """A complete snapshot in memory that is not on disk yet."""

    name: str  # of the checkpoint that it would be
    step: int
    slot: str  # its directory


class Gpu(msgspec.Struct, frozen=True):
    """A GPU as NVML reports it; None where it does not."""

    index: int
    name: str = ""
    temperature_c: int | None = None
    margin_c: int | None = None  # degrees left to the chip's own limit (T.Limit)
    power_w: float | None = None
    power_limit_w: float | None = None  # at which the chip throttles itself
    utilisation: int | None = None  # per cent
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    memory_temperature_c: int | None = None
    clocks: tuple[str, ...] | None = None  # why the clocks are below their highest, in NVML's words; (): they are not
    uncorrected: int | None = None  # ECC errors that could not be corrected, since the driver was loaded
    recovery: str | None = None  # what the driver wants done to it: reset, bus reset, reboot, drain, …; empty: nothing


class PowerChange(msgspec.Struct, frozen=True):
    """A GPU's power limit in milliwatts: as it was found, and what it may be now by our doing (two, for a kill between them)."""

    gpu: int  # its index
    original: int
    ours: tuple[int, ...]


class PowerFile(Record, frozen=True, kw_only=True):
    """The power limits that are lowered (`run/power.json`; writer: the probe), by the GPU's UUID. Of an earlier boot it means nothing."""

    boot_id: str = ""
    gpus: dict[str, PowerChange] = {}


class UploadSeen(msgspec.Struct, frozen=True):
    """What has arrived at the far place, verified there; names are empty, times None, where nothing has yet."""

    where: str  # hf://USER/REPO, or the target
    weights: str = ""  # the checkpoint whose weights are there
    weights_at: Stamp | None = None
    state: str = ""  # the checkpoint that is there whole
    state_at: Stamp | None = None


class Status(Record, frozen=True, kw_only=True):
    """What the watchdog knows and remembers: read by `adamctl status`, and by the watchdog after its own death."""

    run: str = ""  # the run directory's identity: in a copied directory the processes named here are another's
    state: RunState
    reason: str
    since: Stamp
    stamp: Stamp
    attempt: int = 0
    restarts: int = 0
    watchdog_pid: int = 0
    watchdog_ticks: int = 0
    checkpoint: CheckpointSeen | None = None
    upload: UploadSeen | None = None  # None: no upload is configured
    gpus: tuple[Gpu, ...] = ()
    sensors: str = "unknown"  # ok, none (no NVIDIA driver), or unknown
    saves_done: int = 0  # the last save request (Desired.saves) that is a verified checkpoint
    fingerprint: str = ""  # of the numerics of the present attempt
    breaks: tuple[str, ...] = ()  # where the numerics changed: "step 1200: threads 2 -> 4"
    notes: tuple[str, ...] = ()  # what is wrong while training goes on (disk full, …)
    memory: dict[str, Any] = {}  # the policy's own


def encode_line(record: msgspec.Struct) -> bytes:
    """`record` as one line of JSON; floats read back exactly."""
    return msgspec.json.encode(record)


def decode_step(line: bytes, path: Path) -> StepRow:
    """The row in a line of `path`; errors as `schema.decode`."""
    return decode(line, StepRow, str(path))
