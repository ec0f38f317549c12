"""The configuration: typed sections, each field with its bounds and a line of help.

`adamctl init` writes these lines as comments; `config_file` reads and checks a file against them.
"""

import re
from typing import Annotated, Literal

from msgspec import Meta

from adam.contract.config_forge import Forge, forge_contradictions
from adam.contract.events import KINDS
from adam.contract.model import ModelConfig
from adam.contract.section import Section

SCHEMA = 1
REPO = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


class Trainer(Section, frozen=True):
    steps: Annotated[
        int, Meta(ge=1, description="optimizer updates in all; raise it later to go on with a finished run")
    ] = 150_000
    seq_len: Annotated[int, Meta(ge=8, description="tokens of one sample")] = 2048
    batch_size: Annotated[int, Meta(ge=1, description="samples of one update (on all GPUs together)")] = 32
    micro_batch: Annotated[
        int, Meta(ge=1, description="samples that are computed at once; batch_size is a multiple of it")
    ] = 8
    lr: Annotated[float, Meta(gt=0, description="peak learning rate")] = 3e-4
    min_lr: Annotated[float, Meta(ge=0, description="learning rate after the cosine")] = 1e-5
    warmup_steps: Annotated[int, Meta(ge=0, description="updates of linear warm-up")] = 1500
    decay_steps: Annotated[
        int, Meta(ge=0, description="update at which the cosine reaches min_lr; 0: steps, as it was at the first start")
    ] = 0
    weight_decay: Annotated[float, Meta(ge=0, description="not applied to norms, biases, A_log, D and dt_bias")] = 0.05
    optimizer: Annotated[
        Literal["adamw", "muon"],
        Meta(description="muon: Muon for the projections of blocks, at rates that fit AdamW's, and AdamW for all else"),
    ] = "adamw"
    beta1: Annotated[float, Meta(ge=0, lt=1, description="AdamW's first moment")] = 0.9
    beta2: Annotated[float, Meta(ge=0, lt=1, description="AdamW's second moment")] = 0.95
    eps: Annotated[float, Meta(gt=0, description="AdamW's epsilon")] = 1e-8
    clip: Annotated[float, Meta(gt=0, description="largest norm of the gradient")] = 1.0
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1, description="of the weights and of the order of the data")] = 0
    weights: Annotated[
        str,
        Meta(
            description="a folder of public Mamba weights to begin with (config.json and safetensors or pytorch_model.bin, of mamba_ssm or "
            "transformers); a relative one is seen from the run directory; empty: drawn from the seed"
        ),
    ] = ""
    device: Annotated[Literal["auto", "cpu", "cuda"], Meta(description="auto: a GPU where there is one")] = "auto"
    gpus: Annotated[
        Annotated[int, Meta(ge=1)] | Literal["all"],
        Meta(
            description="GPUs that train together, a process each: a number, or all that are seen and that batch_size can be dealt to in "
            'micro-batches ("all"); with device = "cpu" so many processes on the CPU'
        ),
    ] = 1
    backend: Annotated[
        Literal["auto", "native", "mamba_ssm", "torch"],
        Meta(
            description="whose selective scan; native: ours, for NVIDIA GPUs, and for CPUs that have a C++ compiler; torch: the reference; "
            "auto: the fastest that gives the reference's results here"
        ),
    ] = "auto"
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp8"],
        Meta(
            description="auto: bf16 autocast over fp32 weights on GPUs, fp32 on CPUs; fp8: bf16, and in_proj and out_proj of each "
            "block are multiplied in e4m3 with a scale a row (sm_89 and later)"
        ),
    ] = "auto"
    recompute: Annotated[
        Literal["auto", "on", "off", "blocks"],
        Meta(
            description="whether states of selective scans are computed again in the backward (native, mamba1), to the same bits; "
            "blocks: all of a block but its input is; "
            "auto: where keeping them would take more than nine tenths of the GPU's memory, or as `fit` measures"
        ),
    ] = "auto"
    fit: Annotated[
        Literal["auto", "off"],
        Meta(
            description="auto: how many samples are computed at once, and what is computed again in the backward, is measured at the "
            "first start and kept: the fastest that fits beside a snapshot's copy; micro_batch is then not used; off: micro_batch"
        ),
    ] = "off"
    threads: Annotated[int, Meta(ge=0, description="CPU threads; 0: the cores this process may use")] = 0
    log_every: Annotated[int, Meta(ge=1, description="updates between two rows of metrics.csv")] = 1
    eval_every: Annotated[int, Meta(ge=0, description="updates between two validations; 0: only at the end")] = 1000
    eval_tokens: Annotated[
        int,
        Meta(ge=1, description="validation tokens that are used, the same each time (rounded down to whole samples)"),
    ] = 1_000_000


class Checkpoint(Section, frozen=True):
    every_steps: Annotated[int, Meta(ge=0, description="checkpoints at multiples of this step; 0: by time only")] = 0
    every_minutes: Annotated[
        float,
        Meta(
            ge=0,
            description="minutes between two checkpoints; 0: chosen from what they cost and how often the machine fails, 10 to 20",
        ),
    ] = 0.0
    write_gb_per_day: Annotated[
        float, Meta(gt=0, description="checkpoints that are chosen by time write no more than this: disks wear")
    ] = 2000.0
    ram: Annotated[
        Literal["auto", "off"],
        Meta(description="auto: snapshots every few steps in shared memory, where there is room; off: on disk only"),
    ] = "auto"
    ram_every_steps: Annotated[
        int, Meta(ge=0, description="updates between two snapshots in memory; 0: as many as cost under half a per cent")
    ] = 0
    keep_last: Annotated[int, Meta(ge=1, description="newest checkpoints that are kept")] = 3
    milestone_every: Annotated[
        int, Meta(ge=0, description="a checkpoint is made at each multiple of this step and kept for ever; 0: none")
    ] = 0
    keep_every_hours: Annotated[
        float, Meta(ge=0, description="the first checkpoint of each so many hours is kept for ever; 0: none")
    ] = 0.0


class Watchdog(Section, frozen=True):
    telemetry_seconds: Annotated[float, Meta(ge=0.5, description="how often host and GPUs are read")] = 5.0
    hang_seconds: Annotated[
        float, Meta(ge=2, description="shortest time without progress that counts as a hang while training")
    ] = 8.0
    start_seconds: Annotated[float, Meta(ge=10, description="longest time from start to the first micro-step")] = 300.0
    save_seconds: Annotated[
        float, Meta(ge=10, description="longest time that a save, or one long call of the forge, may take")
    ] = 1800.0
    backoff_seconds: Annotated[
        float, Meta(gt=0, description="wait before the first restart; doubles with each failure in a row")
    ] = 0.5
    backoff_cap_seconds: Annotated[float, Meta(gt=0, description="longest wait before a restart")] = 300.0
    same_failures: Annotated[
        int, Meta(ge=1, description="equal failures without progress after which the plan changes")
    ] = 2
    stop_seconds: Annotated[
        float, Meta(ge=1, description="how long a program may take to save and end when it is asked to")
    ] = 180.0
    pause_celsius: Annotated[
        float, Meta(gt=0, description="training pauses while a GPU is above this temperature (°C)")
    ] = 80.0
    resume_celsius: Annotated[
        float, Meta(gt=0, description="… and goes on when each GPU that was too hot is below this one")
    ] = 70.0
    pause_margin_celsius: Annotated[
        float,
        Meta(description="training pauses while fewer °C are left to a chip's own limit (T.Limit), where it tells"),
    ] = 5.0
    resume_margin_celsius: Annotated[float, Meta(description="… and goes on when more than these are left")] = 15.0
    pause_memory_celsius: Annotated[
        float, Meta(gt=0, description="training pauses while a GPU's memory is above this temperature, where it tells")
    ] = 95.0
    resume_memory_celsius: Annotated[float, Meta(gt=0, description="… and goes on below this one")] = 85.0
    blind_seconds: Annotated[
        float,
        Meta(
            ge=0, description="how long a pause for heat outlives the sensors; then training goes on, and that is told"
        ),
    ] = 600.0
    power_floor_watts: Annotated[
        float,
        Meta(
            ge=0,
            description="a GPU's power limit is lowered, to this at least, before training pauses for heat (needs root); 0: never",
        ),
    ] = 0.0
    power_room_celsius: Annotated[
        float,
        Meta(gt=0, description="… while fewer °C than these are left to the pause; raised again at twice as many"),
    ] = 4.0
    reboot: Annotated[
        bool,
        Meta(
            description="ask systemd for a reboot where no GPU can be trained on (needs `adamctl systemd install --reboot`)"
        ),
    ] = False
    reboot_after_minutes: Annotated[
        float, Meta(gt=0, description="… after training has waited for a GPU for so long")
    ] = 15.0
    reboot_uptime_minutes: Annotated[
        float, Meta(gt=0, description="… and not sooner than this after the machine was started")
    ] = 60.0
    reboots_per_day: Annotated[
        int,
        Meta(
            ge=1,
            le=4,
            description="… at most so often in 24 hours; where these brought no step of training, the run has failed",
        ),
    ] = 2


class Numeric(Section, frozen=True):
    """Trouble with the numbers of training: what counts as such, and what is done about it."""

    spike_rise: Annotated[
        float,
        Meta(
            ge=0,
            description="nats that lasting losses rise above the running median, and far beyond its spread; 0: off",
        ),
    ] = 0.5
    divergence_rise: Annotated[
        float, Meta(ge=0, description="nats that the mean of 50 losses rises above the one of 150 before; 0: off")
    ] = 0.5
    divergence_from: Annotated[int, Meta(ge=0, description="divergence is looked for after this step")] = 5000
    stagnation_steps: Annotated[
        int, Meta(ge=0, description="steps without a better mean of 50 losses after which the run has failed; 0: off")
    ] = 0
    healthy_steps: Annotated[
        int, Meta(ge=0, description="good steps that must lie between a checkpoint and the trouble to go back to it")
    ] = 50
    rollbacks: Annotated[
        int, Meta(ge=0, description="troubles at the same place after which the run has failed; 0: off, as any failure")
    ] = 3
    lr_factor: Annotated[
        float,
        Meta(gt=0, le=1, description="the learning rate is multiplied by this at each such rollback; 1: unchanged"),
    ] = 1.0
    replay_minutes: Annotated[
        float,
        Meta(ge=0, description="how often a part of a step is computed twice and compared bit for bit; 0: never"),
    ] = 60.0


class Alerts(Section, frozen=True):
    command: Annotated[
        str,
        Meta(
            description="shell command that is run for each alert: JSON on stdin, the text in $ADAM_ALERT; empty: none"
        ),
    ] = ""
    kinds: Annotated[tuple[str, ...], Meta(description="kinds of events (events.jsonl) that people are told of")] = (
        "failed",
        "finished",
        "stopped",
        "crashed",
        "hung",
        "stuck",
        "quarantined",
        "numerics_changed",
        "backend_failed",
        "disk_full",
        "sensors",
        "heat",
        "gpu",
        "reboot",
        "upload_failed",
    )
    per_hour: Annotated[int, Meta(ge=1, description="alerts in any hour; the others are counted, and told in sum")] = 12
    repeat_minutes: Annotated[float, Meta(ge=0, description="until the same thing is told again")] = 60.0


class Upload(Section, frozen=True):
    repo: Annotated[
        str,
        Meta(
            description="USER/REPO on the Hub, made where it is not there; empty: nothing is uploaded (but to `target`)"
        ),
    ] = ""
    target: Annotated[
        str, Meta(description="in place of the Hub a directory that fsspec knows: file:///backup/run, s3://bucket/run")
    ] = ""
    private: Annotated[bool, Meta(description="a repository that is made is private")] = True
    every_minutes: Annotated[float, Meta(ge=1, description="minutes between two uploads of the weights")] = 60.0
    state_every_hours: Annotated[
        float,
        Meta(
            ge=0,
            description="hours between two uploads of the whole state and, once, its data, for `adamctl restore`; 0: weights only",
        ),
    ] = 24.0
    dtype: Annotated[Literal["bf16", "fp32"], Meta(description="of the weights")] = "bf16"
    keep_history: Annotated[
        bool, Meta(description="false: what a newer upload replaces is deleted from the Hub's storage for good")
    ] = False
    timeout_minutes: Annotated[
        float, Meta(ge=0, description="an upload that takes longer is ended and tried again; 0: 30, and one per 60 MB")
    ] = 0.0

    @property
    def wanted(self) -> bool:
        return bool(self.repo or self.target)


class Sinks(Section, frozen=True):
    """Where else the rows of metrics.csv are shown: each sink is a process of its own, which training never waits for."""

    prometheus_port: Annotated[
        int,
        Meta(ge=0, le=65535, description="http://127.0.0.1:PORT/metrics for Prometheus (this machine only); 0: none"),
    ] = 0
    tensorboard: Annotated[
        bool, Meta(description="write tensorboard/ in the run directory (needs the package tensorboard)")
    ] = False
    trackio: Annotated[
        str, Meta(description="project in Trackio that rows are logged to (needs the package trackio); empty: none")
    ] = ""

    @property
    def wanted(self) -> tuple[str, ...]:
        """Names of the sinks that are asked for."""
        asked = {"prometheus": self.prometheus_port, "tensorboard": self.tensorboard, "trackio": self.trackio}
        return tuple(name for name, value in asked.items() if value)


class Config(Section, frozen=True):
    """A whole configuration. `model.vocab_size = 0` is filled in from the tokenizer when training starts."""

    schema: Annotated[int, Meta(ge=1, description="of this file")] = SCHEMA
    name: Annotated[str, Meta(description="of the run, in reports; empty: the directory's name")] = ""
    model: ModelConfig = ModelConfig()
    forge: Forge = Forge()
    trainer: Trainer = Trainer()
    checkpoint: Checkpoint = Checkpoint()
    watchdog: Watchdog = Watchdog()
    numeric: Numeric = Numeric()
    alerts: Alerts = Alerts()
    upload: Upload = Upload()
    sinks: Sinks = Sinks()


def contradictions(config: Config) -> list[str]:
    """What is wrong between fields that are right one by one: lines of `key = value: what is allowed`."""
    trainer = config.trainer
    found = []
    if trainer.batch_size % trainer.micro_batch:
        found.append(
            f"trainer.micro_batch = {trainer.micro_batch}: must divide trainer.batch_size = {trainer.batch_size}"
        )
    found += several_gpus(trainer)
    if trainer.min_lr > trainer.lr:
        found.append(f"trainer.min_lr = {trainer.min_lr}: must not exceed trainer.lr = {trainer.lr}")
    found += _crossed(config.watchdog)
    for kind in config.alerts.kinds:
        if kind not in KINDS:
            found.append(f'alerts.kinds has "{kind}": must be of {", ".join(sorted(KINDS))}')
    found += upload_contradictions(config.upload)
    return found + forge_contradictions(config.forge)


def several_gpus(trainer: Trainer) -> list[str]:
    """What several GPUs can't do together."""
    if trainer.gpus == 1:
        return []
    found = []
    if trainer.fit == "auto":
        found.append(f"trainer.fit = 'auto': measures one GPU, and trainer.gpus = {trainer.gpus!r}; set it to 'off'")
    if trainer.optimizer == "muon":
        found.append(
            f"trainer.optimizer = 'muon': needs whole matrices, and with trainer.gpus = {trainer.gpus!r} each GPU has a part; use 'adamw'"
        )
    if trainer.precision == "fp8":
        found.append(
            f"trainer.precision = 'fp8': is for one GPU as yet, and trainer.gpus = {trainer.gpus!r}; use 'bf16'"
        )
    if isinstance(trainer.gpus, int) and trainer.batch_size % (trainer.gpus * trainer.micro_batch):
        found.append(
            f"trainer.gpus = {trainer.gpus}: trainer.batch_size = {trainer.batch_size} must be a multiple of gpus x micro_batch = "
            f"{trainer.gpus} x {trainer.micro_batch}"
        )
    return found


def _crossed(watchdog: Watchdog) -> list[str]:
    """Limits of heat that leave no room between pausing and going on: training would flutter."""
    pairs = {
        "celsius": watchdog.pause_celsius - watchdog.resume_celsius,
        "margin_celsius": watchdog.resume_margin_celsius - watchdog.pause_margin_celsius,
        "memory_celsius": watchdog.pause_memory_celsius - watchdog.resume_memory_celsius,
    }
    return [
        f"watchdog.resume_{name} = {getattr(watchdog, 'resume_' + name)}: must be cooler than "
        f"watchdog.pause_{name} = {getattr(watchdog, 'pause_' + name)}"
        for name, room in pairs.items()
        if room <= 0
    ]


def upload_contradictions(upload: Upload) -> list[str]:
    found = []
    if upload.repo and not REPO.fullmatch(upload.repo):
        found.append(f"upload.repo = {upload.repo!r}: must be USER/REPO")
    if upload.target and "://" not in upload.target:
        found.append(f"upload.target = {upload.target!r}: must be a URL, such as file:///backup/run")
    if upload.repo and upload.target:
        found.append(f"upload.target = {upload.target!r}: upload.repo is set too, one of them must be empty")
    return found
