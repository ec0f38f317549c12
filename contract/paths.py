"""Every path of a run directory, named once."""

import hashlib
import os
from pathlib import Path

from adam.contract.errors import UsageError

# sun_path of a unix socket is 108 bytes; supervisord binds under a temporary name of up to ten bytes more.
LONGEST_SOCKET_PATH = 90
RAM_PREFIX = "adam-"


def shared_memory() -> Path:
    """The tmpfs that snapshots may be kept in."""
    return Path(os.environ.get("ADAM_SHM", "/dev/shm"))


class RunPaths:
    """The places of one run. Making this object touches nothing on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.config = self.root / "adam.toml"
        self.lock = self.root / "config.lock.toml"
        self.metrics = self.root / "metrics.csv"
        self.events = self.root / "events.jsonl"
        self.logs = self.root / "logs"
        self.origin = self.root / "origin.json"
        self.outbox = self.root / "outbox"
        self.upload_journal = self.outbox / "journal.json"
        self.upload_weights = self.outbox / "weights"

        self.tensorboard = self.root / "tensorboard"

        self.shards = self.root / "shards"
        self.shards_manifest = self.shards / "manifest.json"
        self.shards_work = self.shards / ".work"
        self.tokens = self.root / "tokens"
        self.tokens_manifest = self.tokens / "manifest.json"

        self.checkpoints = self.root / "checkpoints"
        self.staging = self.checkpoints / ".staging"
        self.quarantine = self.checkpoints / "quarantine"
        self.pins = self.checkpoints / "pins.json"

        self.run = self.root / "run"
        self.desired = self.run / "desired.json"
        self.plan = self.run / "plan.json"
        self.control = self.run / "control"
        self.lease = self.run / "lease"
        self.steps = self.run / "steps.jsonl"
        self.staging_report = self.run / "staging.json"
        self.numerics = self.run / "numerics.json"
        self.backend_report = self.run / "backend.json"
        self.fit = self.run / "fit.json"
        self.validation = self.run / "validation.json"
        self.kernel_checks = self.run / "kernels.json"
        self.status = self.run / "status.json"
        self.alerts = self.run / "alerts.json"
        self.power = self.run / "power.json"
        self.reboots = self.run / "reboots.json"
        self.beat = self.run / "beat-watchdog"
        self.supervisor_conf = self.run / "supervisord.conf"
        self.supervisor_pid = self.run / "supervisord.pid"
        self.up_lock = self.run / "up.lock"

    def pulse(self, name: str) -> Path:
        """The pulse of a program: `0`, `1`, … for the trainer's ranks, `forge` for the forge."""
        return self.run / f"pulse-{name}"

    def sink(self, name: str) -> Path:
        return self.run / f"sink-{name}.json"

    def exit_report(self, program: str) -> Path:
        return self.run / f"exit-{program}.json"

    def log(self, part: str) -> Path:
        return self.logs / f"{part}.log"

    @property
    def identity(self) -> str:
        """Bound to the directory's device and inode, so that a copied directory is another run."""
        status = self.root.stat()
        return hashlib.sha256(f"{status.st_dev}:{status.st_ino}".encode()).hexdigest()[:12]

    @property
    def ram(self) -> Path:
        """The run's directory in shared memory."""
        return shared_memory() / f"{RAM_PREFIX}{self.identity}"

    @property
    def has_socket_inside(self) -> bool:
        return len(os.fsencode(self.run / "supervisor.sock")) <= LONGEST_SOCKET_PATH

    @property
    def supervisor_socket(self) -> Path:
        """supervisord's socket: in `run/`, or below /tmp where that path is too long for a unix socket."""
        if self.has_socket_inside:
            return self.run / "supervisor.sock"
        return Path(f"/tmp/adam-{os.getuid()}-{self.identity}") / "supervisor.sock"


def find_run(argument: str | None, *, environ: dict[str, str] | None = None, cwd: Path | None = None) -> Path:
    """The run that a command means: `--run`, else `$ADAM_RUN`, else the run here, else `runs/demo`.

    Raises UsageError where the name is that of a file.
    """
    environ = dict(os.environ) if environ is None else environ
    cwd = Path.cwd() if cwd is None else cwd
    named = argument or environ.get("ADAM_RUN")
    if named:
        path = cwd / named
    elif (cwd / "adam.toml").exists() or (cwd / "config.lock.toml").exists():
        path = cwd
    else:
        path = cwd / "runs" / "demo"
    if path.exists() and not path.is_dir():
        raise UsageError(f"the run {path} is a file, not a directory", "name a directory with --run")
    return path
