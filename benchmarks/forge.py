"""How long the forge takes on the standard library, stage by stage, and how many bytes a token has for each vocabulary.

python -P benchmarks/forge.py [--vocab 1024 2048 4096 8192]
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from adam.contract.config import Config
from adam.contract.config_forge import Forge
from adam.contract.paths import RunPaths
from adam.contract.shards import ShardManifest
from adam.forge.baseline import order2_bits_per_byte
from adam.forge.build import build_shards
from adam.forge.progress import Progress
from adam.forge.report import lines
from adam.forge.tokenizer import learn, sample
from adam.forge.tokens import build_tokens
from adam.forge.writer import records

T = TypeVar("T")


def timed(name: str, work: Callable[[], T]) -> T:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    print(f"{name:24} {time.perf_counter() - wall:6.1f} s  ({time.process_time() - cpu:.1f} s of CPU)", flush=True)
    return result


def texts(paths: RunPaths, shards: ShardManifest, split: str) -> list[str]:
    return [record.text for record in records(paths.shards, shards.files, split)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab", type=int, nargs="*", default=[1024, 2048, 4096, 8192])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        paths = RunPaths(Path(directory))
        paths.run.mkdir()
        config = Config(forge=Forge())
        progress = Progress(paths, 0, 1, show=False)
        shards = timed("reading", lambda: build_shards(config, paths, progress, lambda: False))
        tokens = timed("learning and encoding", lambda: build_tokens(config, paths, shards, progress, lambda: False))
        print(*lines(shards, tokens, config.trainer), sep="\n")
        train, val = texts(paths, shards, "train"), texts(paths, shards, "val")
        timed("of that, the order-2 floor", lambda: order2_bits_per_byte(map(str.encode, train), map(str.encode, val)))
        have, val_bytes = sum(file.size for file in shards.files), sum(len(text.encode()) for text in val)
        for size in arguments.vocab:
            chosen = sample(records(paths.shards, shards.files, "train"), have, lambda: None)
            tokenizer = timed(f"of that, learning {size}", lambda: learn(chosen, Forge(vocab_size=size)))  # noqa: B023
            count = sum(len(encoding.ids) for encoding in tokenizer.encode_batch(val))
            print(f"  {val_bytes / count:.2f} bytes per token on val")


if __name__ == "__main__":
    main()
