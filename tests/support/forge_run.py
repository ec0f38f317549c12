"""A run directory whose forge is started as people do: `adamctl forge …`, a process of its own, against a stand-in Hub."""

import os
import subprocess
import sys
from pathlib import Path

from fake_datasets import FakeDatasets

from adam.contract.paths import RunPaths

TIMEOUT_S = 300


class ForgeRun:
    """Calling it is `adamctl forge WORDS --run DIR`, without a terminal."""

    def __init__(self, root: Path, config: str, hub: FakeDatasets | None = None) -> None:
        self.paths = RunPaths(root)
        self.environment = {**os.environ, **(hub.environment(root.parent / f"{root.name}-cache") if hub else {})}
        root.mkdir(parents=True)
        self.paths.config.write_text(config)

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "adam.daemon.cli", "forge", *words, "--run", str(self.paths.root)],
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
        )

    def __call__(self, *words: str, expect: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        with self.start(*words, **environment) as forge:
            out, errors = forge.communicate(timeout=TIMEOUT_S)
        assert forge.returncode == expect, (forge.returncode, errors, out)
        return subprocess.CompletedProcess(forge.args, forge.returncode, out, errors)
