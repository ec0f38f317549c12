"""A real run of all of Adam's processes, driven through its command line."""

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from adam.contract import schema
from adam.contract.checkpoints import list_checkpoints, rank_file
from adam.contract.clock import stamp
from adam.contract.durable import last_line, log_lines
from adam.contract.lease import read_lease
from adam.contract.paths import RunPaths
from adam.contract.process import processes_with
from adam.contract.records import Desired, Status, decode_step
from adam.contract.schema import load
from adam.contract.slots import PADDING, read_head
from adam.daemon.supervisord import start_detached

POLL_S = 0.02
FAULTY = Path(__file__).parents[1] / "faults" / "faulty_trainer.py"
HASTY = FAULTY.with_name("hasty_launcher.py")

CONFIG = """
[[forge.sources]]
path = "{text}"

[forge]
vocab_size = 512
val_fraction = 0.1

[model]
d_model = 32
n_layer = 2
d_state = 4

[trainer]
steps = {steps}
seq_len = 64
batch_size = 4
micro_batch = 2
lr = 5e-3
warmup_steps = 10
eval_every = 50
eval_tokens = 4096
threads = 1

[checkpoint]
every_steps = 20

[watchdog]
hang_seconds = 3
backoff_seconds = 0.1
telemetry_seconds = 1
"""


def wait_for(what: str, condition: Callable[[], Any], timeout: float = 180.0) -> Any:
    """The first true answer of `condition`, asked again and again; fails with `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if answer := condition():
            return answer
        time.sleep(POLL_S)
    raise AssertionError(f"not within {timeout:g} s: {what}")


def newest_logged(paths: RunPaths) -> int:
    """The step of the newest row of the trainer's log; 0 where there is none."""
    line = last_line(paths.steps)
    return decode_step(line, paths.steps).step if line else 0


class RealRun:
    """A run directory and what a person would do with it."""

    _supervisord: "subprocess.Popen[bytes] | None" = None

    def __init__(self, root: Path, steps: int = 200, config: str = CONFIG, text: Path | None = None) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.paths = RunPaths(root)
        text = text or Path(sysconfig.get_paths()["stdlib"]) / "email"
        self.paths.config.write_text(config.format(text=text, steps=steps))

    def adamctl(
        self, *arguments: str, timeout: float = 120, expect: int | None = 0
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "adam.daemon", *arguments]
        environment = {**os.environ, "ADAM_RUN": str(self.paths.root), "PYTHONSAFEPATH": "1"}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env=environment, cwd="/", check=False
        )
        if expect is not None and done.returncode != expect:
            raise AssertionError(
                f"adamctl {arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.logs()}"
            )
        return done

    def up_with(self, *options: str) -> None:
        """As `adamctl up`, with the faulty trainer in place of the real one (the launcher's COMMAND)."""
        self._up_by(
            f"-m adam.watchdog.launcher --run {self.paths.root} trainer -- {sys.executable} -P {FAULTY} {' '.join(options)}"
        )

    def up_hasty(self) -> None:
        """As `adamctl up`, with the hasty launcher."""
        self._up_by(f"{HASTY} --run {self.paths.root} trainer")

    def _up_by(self, launcher: str) -> None:
        self.adamctl("up", "--prepare")
        text = self.paths.supervisor_conf.read_text()
        plain = f"-m adam.watchdog.launcher --run {self.paths.root} trainer\n"
        assert text.count(plain) == 1, text
        self.paths.supervisor_conf.write_text(text.replace(plain, launcher + "\n"))
        schema.save(self.paths.desired, Desired(stamp=stamp()))
        self._reap()
        started = self._supervisord = start_detached(self.paths)
        wait_for("supervisord's own word", lambda: self._supervisor_pid() == started.pid)

    def _supervisor_pid(self) -> int:
        with suppress(FileNotFoundError, ValueError):
            return int(self.paths.supervisor_pid.read_text())
        return 0

    def status(self) -> dict[str, Any]:
        return json.loads(self.adamctl("status", "--json").stdout)

    def state(self) -> str:
        """The state that the watchdog wrote last; empty before its first word."""
        status = load(self.paths.status, Status)
        return status.state if status else ""

    def rows(self) -> list[dict[str, str]]:
        if not self.paths.metrics.exists():
            return []
        with self.paths.metrics.open(newline="") as file:
            return [row for row in csv.DictReader(file) if None not in row.values()]

    def step(self) -> int:
        rows = self.rows()
        return int(rows[-1]["step"]) if rows else 0

    def fault_at(self, step: int) -> float:
        """When the faulty trainer did its harm behind `step`, in seconds of CLOCK_BOOTTIME; waits for it."""
        mark = self.paths.run / f"fault-{step}"
        return float(wait_for(f"the fault behind step {step}", lambda: mark.exists() and mark.read_text()))

    def first_row_of(self, attempt: int) -> float:
        """When an attempt had done its first step, in seconds of CLOCK_BOOTTIME; waits for it."""

        def look() -> float:
            rows = (decode_step(line, self.paths.steps) for _, line in log_lines(self.paths.steps))
            return next((row.boottime for row in rows if row.attempt == attempt), 0.0)

        return float(wait_for(f"a step of attempt {attempt}", look))

    def losses(self) -> list[tuple[int, str]]:
        """(step, loss as written) of the rows that count: the newest attempt of each step."""
        return [(step, row["loss"]) for step, row in sorted(self.counting_rows().items())]

    def counting_rows(self) -> dict[int, dict[str, str]]:
        newest: dict[int, dict[str, str]] = {}
        for row in self.rows():
            step = int(row["step"])
            if step not in newest or int(row["attempt"]) >= int(newest[step]["attempt"]):
                newest[step] = row
        return newest

    def validations(self) -> list[tuple[int, str]]:
        """(step, validation loss as written), by step; of a step that was validated twice the last."""
        return sorted({int(row["step"]): row["val_loss"] for row in self.rows() if row["val_loss"]}.items())

    def final_state(self) -> str:
        """SHA-256 of everything that the newest checkpoint holds of training: places in the data, names, shapes, dtypes, bytes."""
        path = list_checkpoints(self.paths.checkpoints)[-1] / rank_file(0)
        found = read_head(path)
        assert found is not None
        head, places = found
        digest = hashlib.sha256(f"{head.step} {head.tokens} {head.samples} {head.state}".encode())
        data = path.read_bytes()
        for name, place in sorted(places.items()):
            if not name.startswith(PADDING):
                digest.update(f"{place.entry}".encode() + data[place.start : place.end])
        return digest.hexdigest()

    def trainer_pid(self) -> int:
        lease = read_lease(self.paths)
        return lease.child_pid if lease is not None and lease.program == "trainer" else 0

    def launcher_pid(self) -> int:
        """Also of one that waits for the next plan."""
        lease = read_lease(self.paths)
        return lease.launcher_pid or lease.waiting_pid if lease is not None else 0

    def template_pid(self) -> int:
        """The template that waits to be copied; 0 where there is none yet."""
        for pid in self.processes():
            with suppress(FileNotFoundError, ProcessLookupError):
                if Path(f"/proc/{pid}/comm").read_text() == "adam-template\n":
                    return pid
        return 0

    def pid_of(self, module: str) -> int:
        """The process of this run that runs `python -m MODULE`; 0 where there is none."""
        for pid in self.processes():
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if module.encode() in command:
                return pid
        return 0

    def processes(self) -> list[int]:
        return processes_with("ADAM_SUPERVISED", str(self.paths.root))

    def events(self, kind: str) -> list[dict[str, Any]]:
        if not self.paths.events.exists():
            return []
        lines = [json.loads(line) for line in self.paths.events.read_text().splitlines()]
        return [line for line in lines if line["kind"] == kind]

    def wait_final(self, timeout: float = 180) -> str:
        final = ("finished", "failed", "stopped")
        wait_for("a final state and no process left", lambda: self.state() in final and not self.processes(), timeout)
        return self.state()

    def logs(self) -> str:
        """The ends of all logs, for a test that failed."""
        ends = [
            f"--- {path.name}\n{path.read_text(errors='replace')[-3000:]}"
            for path in sorted(self.paths.logs.glob("*.log"))
        ]
        if self.paths.events.exists():
            ends.append("--- events\n" + self.paths.events.read_text()[-4000:])
        return "\n".join(ends)

    def end(self) -> None:
        """Nobody may outlive a test, however it ended."""
        for pid in self.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        wait_for("all processes gone", lambda: not self.processes(), 10)
        self._reap()

    def _reap(self) -> None:
        """A supervisord that this process started is its child."""
        if self._supervisord is not None:
            self._supervisord.wait(20)
            self._supervisord = None
