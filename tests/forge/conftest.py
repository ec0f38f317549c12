"""A forge in this process, over a folder of made-up text: for what needs no process of its own."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from made_files import digests

from adam.contract.config import Config
from adam.contract.config_forge import Forge, Source
from adam.contract.paths import RunPaths
from adam.forge.build import build_shards
from adam.forge.progress import Progress
from adam.forge.tokens import build_tokens


class Bench:
    """`config` over `folder`; `shards` and `tokens` build in `paths`."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.paths, self.folder = RunPaths(root), folder
        self.keys: dict[str, object] = {"val_fraction": 0.2, "vocab_size": 300}
        self.paths.run.mkdir(parents=True)
        self.progress = Progress(self.paths, 1, 1, show=False)

    @property
    def config(self) -> Config:
        return Config(forge=Forge(**{"sources": (Source(path=str(self.folder)),), **self.keys}))

    def shards(self, stop: Callable[[], bool] = lambda: False, free: int = 10**15):
        return build_shards(self.config, self.paths, self.progress, stop, free=lambda _: free)

    def tokens(self, shards=None, stop: Callable[[], bool] = lambda: False, free: int = 10**15):
        return build_tokens(self.config, self.paths, shards or self.shards(), self.progress, stop, free=lambda _: free)

    def records(self) -> list[dict[str, str]]:
        return [
            json.loads(line)
            for path in sorted(self.paths.shards.glob("*-*.jsonl"))
            for line in path.read_text().splitlines()
        ]

    def digests(self) -> dict[str, str]:
        """Of everything that was made, but for the moment in the manifests."""
        return digests(self.paths)


def words(seed: int, count: int = 60) -> str:
    rng = random.Random(seed)
    return f"{seed} " + " ".join(rng.choice(["alpha", "beta", "gamma", "delta", "été", "→"]) for _ in range(count))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Fifteen files and thirty records."""
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(15):
        (folder / f"{number:02d}.txt").write_text(words(number))
    lines = [json.dumps({"text": words(100 + number)}) for number in range(30)]
    (folder / "records.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def bench_at(tmp_path, folder) -> Callable[[str], Bench]:
    return lambda name: Bench(tmp_path / name, folder)


@pytest.fixture
def bench(bench_at) -> Bench:
    return bench_at("run")
