"""A run directory without data or torch, and a real supervisord that runs the real watchdog and launcher over a fake trainer."""

import csv
import importlib.util
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import pytest

from adam.contract import schema
from adam.contract.checkpoints import list_checkpoints
from adam.contract.clock import stamp
from adam.contract.config import Alerts, Checkpoint, Config, Numeric, Sinks, Trainer, Upload, Watchdog
from adam.contract.config_file import write_lock
from adam.contract.durable import sha256_file
from adam.contract.paths import RunPaths
from adam.contract.process import processes_with
from adam.contract.records import Desired, Status
from adam.contract.shards import DataFile, TokensManifest
from adam.contract.states import RunState
from adam.contract.supervisor import Supervisor

T = TypeVar("T")
FAKE = Path(__file__).parents[1] / "faults" / "fake_trainer.py"


def wait_until(look: Callable[[], T], seconds: float = 20.0, what: str = "") -> T:
    """The first true value of `look`; fails loudly when there was none in time."""
    deadline = time.monotonic() + seconds
    while not (value := look()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or look}"
        time.sleep(0.01)
    return value


@pytest.fixture
def await_() -> Callable[..., Any]:
    return wait_until


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fake_trainer", FAKE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    """An empty run directory."""
    paths = RunPaths(tmp_path / "run")
    for directory in (paths.run, paths.logs, paths.staging):
        directory.mkdir(parents=True)
    return paths


def make_data(paths: RunPaths) -> None:
    """Manifests that belong together, of data that nobody reads."""
    paths.shards.mkdir(exist_ok=True)
    paths.tokens.mkdir(exist_ok=True)
    paths.shards_manifest.write_text("{}")
    none = DataFile("none", 0, "")
    schema.save(
        paths.tokens_manifest,
        TokensManifest(
            shards_sha256=sha256_file(paths.shards_manifest),
            tokenizer=none,
            tokenizer_origin="",
            vocab_size=1,
            end_of_text=0,
            token_bytes=none,
            splits={},
            order2_bits_per_byte=0.0,
            stamp=stamp(),
        ),
    )


class Box:
    """A run on this machine: supervisord, watchdog, launcher and the fake trainer."""

    def __init__(self, paths: RunPaths, fake: ModuleType) -> None:
        self.paths, self.fake = paths, fake
        self.supervisor = Supervisor(paths.supervisor_socket)
        self.process: subprocess.Popen[bytes] | None = None
        self.trainer = {"steps": 200, "batch_size": 1, "micro_batch": 1, "seq_len": 16}
        self.checkpoint = {"every_steps": 20, "keep_last": 3}
        self.alerts = Alerts()
        self.sinks = Sinks()
        self.upload = Upload()
        self.watchdog = {"hang_seconds": 2.0, "backoff_seconds": 0.1, "backoff_cap_seconds": 0.5, "start_seconds": 20.0}
        self.numeric: dict[str, float] = {}

    def configure(self, *mischief: str, step_ms: float = 5.0, forge: str = "", trainer: str = "") -> None:
        """`mischief`: see the fake trainer's --do, or an option of its own; `trainer`: another command line in its place."""
        config = Config(
            trainer=Trainer(**self.trainer),
            checkpoint=Checkpoint(**self.checkpoint),
            watchdog=Watchdog(**self.watchdog),
            numeric=Numeric(**self.numeric),
            alerts=self.alerts,
            sinks=self.sinks,
            upload=self.upload,
        )
        write_lock(self.paths.lock, config)
        if not forge:
            make_data(self.paths)
        python = sys.executable
        doing = " ".join(item if item.startswith("--") else f"--do {item}" for item in mischief)
        trainer = trainer or f"{python} -P {FAKE} --step-ms {step_ms} {doing}"
        launcher = f"{python} -P -m adam.watchdog.launcher --run {self.paths.root}"
        self.paths.supervisor_conf.write_text(f"""
[supervisord]
nodaemon=true
pidfile={self.paths.supervisor_pid}
logfile={self.paths.log("supervisord")}
environment=ADAM_SUPERVISED="{self.paths.root}",PYTHONSAFEPATH="1"
[unix_http_server]
file={self.paths.supervisor_socket}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[program:watchdog]
command={python} -P -m adam.watchdog --run {self.paths.root}
priority=1
stopasgroup=true
killasgroup=true
autorestart=true
startsecs=0
stopwaitsecs=30
stdout_logfile={self.paths.log("watchdog-output")}
redirect_stderr=true
[program:trainer]
command={launcher} trainer -- {trainer}
autostart=false
autorestart=false
startsecs=0
stopwaitsecs=200
stdout_logfile={self.paths.log("launcher")}
redirect_stderr=true
[program:forge]
command={launcher} forge -- {forge or "true"}
autostart=false
autorestart=false
startsecs=0
stdout_logfile={self.paths.log("launcher")}
redirect_stderr=true
""")

    def want(self, running: bool = True, pauses: tuple[str, ...] = (), saves: int = 0) -> None:
        schema.save(self.paths.desired, Desired(running=running, pauses=pauses, saves=saves, stamp=stamp()))

    def up(self) -> None:
        self.want()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "supervisor.supervisord", "-c", str(self.paths.supervisor_conf)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def status(self) -> Status | None:
        return schema.load(self.paths.status, Status)

    def state(self) -> RunState | None:
        status = self.status()
        return status.state if status else None

    def await_state(self, *states: RunState, seconds: float = 120.0) -> Status:
        wait_until(lambda: self.state() in states, seconds, f"{states}, it is {self.status()}")
        status = self.status()
        assert status is not None
        return status

    def pid_of(self, module: str) -> int:
        """The pid of our process whose command line has `module`; 0: none."""
        for pid in processes_with("ADAM_SUPERVISED", str(self.paths.root)):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if module.encode() in words:
                return pid
        return 0

    def kill(self, pid: int) -> None:
        assert pid > 0
        os.kill(pid, signal.SIGKILL)

    def trainer_pid(self) -> int:
        return self.pid_of(str(FAKE)) if not self.pid_of("adam.watchdog.launcher") else self._child_of_launcher()

    def _child_of_launcher(self) -> int:
        from adam.contract.lease import read_lease

        lease = read_lease(self.paths)
        return lease.child_pid if lease else 0

    def rows(self) -> list[dict[str, str]]:
        if not self.paths.metrics.exists():
            return []
        return list(
            csv.DictReader(io.StringIO(self.paths.metrics.read_text(), newline=""))
        )  # at once: it is being written

    def await_step(self, step: int, seconds: float = 120.0) -> None:
        def there() -> bool:
            rows = self.rows()
            return bool(rows) and int(rows[-1]["step"]) >= step

        wait_until(there, seconds, f"step {step}")

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        import json

        if not self.paths.events.exists():
            return []
        told = [json.loads(line) for line in self.paths.events.read_text().splitlines()]
        return [item for item in told if not kinds or item["kind"] in kinds]

    def check_losses(self, steps: int, skip: tuple[tuple[int, int], ...] = ()) -> None:
        """The last row of each step has the loss of an undisturbed run without `skip`; keys are unique and only grow."""
        rows = self.rows()
        keys = [(int(row["attempt"]), int(row["step"])) for row in rows]
        assert keys == sorted(set(keys))
        last = {int(row["step"]): float(row["loss"]) for row in rows}
        assert [last[step] for step in range(1, steps + 1)] == self.fake.losses(steps, skip)

    def names(self) -> list[str]:
        return [path.name for path in list_checkpoints(self.paths.checkpoints)]

    def end(self) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        wait_until(lambda: not processes_with("ADAM_SUPERVISED", str(self.paths.root)), 5, "nobody is left")


@pytest.fixture
def box(paths: RunPaths, fake: ModuleType) -> Iterator[Box]:
    box = Box(paths, fake)
    yield box
    box.end()
