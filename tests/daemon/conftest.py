"""Synthetic run directories, and the real command line as a process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adam.contract import metrics, schema
from adam.contract.checkpoints import MANIFEST, FileEntry, Manifest, checkpoint_name, seal
from adam.contract.clock import stamp
from adam.contract.config import Config, Trainer
from adam.contract.config_file import write_lock
from adam.contract.config_forge import Forge, Source
from adam.contract.durable import sha256_file
from adam.contract.model import ModelConfig
from adam.contract.paths import RunPaths
from adam.contract.process import processes_with, start_ticks
from adam.contract.records import Status, StepRow

# adamctl with a stand-in for the watchdog, and less patience.
WITH_FAKE = """
import sys
from adam.daemon import down, supervisord
down.MARGIN_S = down.SILENT_S = down.GRACE_S = 1.0
supervisord.WATCHDOG_COMMAND = (sys.executable, "-P", sys.argv.pop(1))
from adam.daemon.cli import main
sys.exit(main())
"""
FAKE_WATCHDOG = Path(__file__).parent / "fake_watchdog.py"

Adamctl = Callable[..., subprocess.CompletedProcess[str]]


def wait_for(what: str, condition: Callable[[], Any], timeout: float = 20.0) -> Any:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if answer := condition():
            return answer
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout:g} s: {what}")


class World:
    """A directory with runs in it, and adamctl."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.text = root / "text"
        self.text.mkdir()
        (self.text / "a.txt").write_text("some text\n" * 50)

    wait_for = staticmethod(wait_for)

    def config(self, **trainer: Any) -> Config:
        return Config(
            model=ModelConfig(d_model=16, n_layer=1, d_state=2),
            forge=Forge(sources=(Source(kind="files", path=str(self.text)),), vocab_size=300),
            trainer=Trainer(
                **{"steps": 100, "seq_len": 16, "batch_size": 2, "micro_batch": 2, "decay_steps": 100, **trainer}
            ),
        )

    def write_toml(self, path: Path, stop_seconds: int = 2) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            f"[[forge.sources]]\npath = {str(self.text)!r}\n[model]\nd_model = 16\n[watchdog]\nstop_seconds = {stop_seconds}\n"
        )
        return path

    def run(self, name: str = "run", config: Config | None = None) -> RunPaths:
        """A run directory that was started once."""
        paths = RunPaths(self.root / name)
        for directory in (paths.run, paths.logs, paths.checkpoints):
            directory.mkdir(parents=True)
        write_lock(paths.lock, config or self.config())
        self.write_toml(paths.config)
        return paths

    def checkpoint(self, paths: RunPaths, step: int, attempt: int = 1, data: bytes = b"weights") -> Path:
        directory = paths.checkpoints / checkpoint_name(step, attempt)
        directory.mkdir(parents=True)
        file = directory / "rank-00000.safetensors"
        file.write_bytes(data)
        manifest = Manifest(
            run="r", step=step, attempt=attempt, token=1, tokens=step * 32, samples=step * 2, parent="", why="interval",
            fingerprint="f", config_digest="c", stamp=stamp(), files=(FileEntry(file.name, len(data), sha256_file(file)),),
        )  # fmt: skip
        (directory / MANIFEST).write_bytes(seal(manifest))
        return directory

    def status(self, paths: RunPaths, **changes: Any) -> None:
        """A status of a watchdog that is this test's own process: it lives."""
        now = stamp()
        facts = {
            "state": "training", "reason": "", "since": now, "stamp": now, "attempt": 1,
            "watchdog_pid": os.getpid(), "watchdog_ticks": start_ticks(os.getpid()) or 0,
        }  # fmt: skip
        schema.save(paths.status, Status(**{**facts, **changes}))

    def row(self, step: int, attempt: int = 1, **changes: Any) -> bytes:
        facts = {
            "tokens": step * 32, "first_sample": 2 * step - 2, "end_sample": 2 * step, "loss": 5.0 - step / 100,
            "grad_norm": 1.0, "lr": 1e-3, "step_s": 0.5, "data_wait_s": 0.0, "wall": 0.0, "boottime": 0.0,
        }  # fmt: skip
        return metrics.row(
            StepRow(**{"attempt": attempt, "step": step, **facts, **changes}),
            metrics.Work(32, 16),
            {"phase": "training"},
        )

    def write_metrics(self, paths: RunPaths, rows: list[bytes], tail: bytes = b"") -> None:
        paths.metrics.write_bytes(b"\n".join([metrics.header(), *rows]) + b"\n" + tail)

    def program(self, fake: bool) -> list[str]:
        """adamctl, as arguments of Python."""
        return ["-c", WITH_FAKE, str(FAKE_WATCHDOG)] if fake else ["-m", "adam.daemon"]

    def adamctl(
        self,
        *arguments: str | Path,
        expect: int | None = 0,
        fake: bool = False,
        env: dict[str, str] | None = None,
        timeout: float = 100,
    ) -> subprocess.CompletedProcess[str]:
        # A child that outlives adamctl, as supervisord does, is a ResourceWarning.
        warnings = ["-W", "error", "-W", "ignore::ResourceWarning"]
        command = [sys.executable, "-P", *warnings, *self.program(fake), *map(str, arguments)]
        # Not the run, token or index of whoever runs the tests; but their shared memory.
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("ADAM_") or name == "ADAM_SHM"
        }
        environment = {**inherited, "PYTHONSAFEPATH": "1", **(env or {})}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, cwd=self.root, env=environment, check=False
        )
        if expect is not None:
            assert done.returncode == expect, f"{arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
            if expect:
                assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        return done

    def processes(self, paths: RunPaths) -> list[int]:
        return processes_with("ADAM_SUPERVISED", str(paths.root))

    def snapshot(self) -> dict[str, bytes | None]:
        """Every path below, with its bytes: to see that nothing was written."""
        return {str(path): path.read_bytes() if path.is_file() else None for path in self.root.rglob("*")}

    def end(self) -> None:
        for paths in map(RunPaths, self.root.rglob("*")):
            for pid in self.processes(paths) if (paths.root / "run").is_dir() else ():
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.end()
