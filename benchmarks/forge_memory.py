"""The most memory that a whole forge takes: all of its processes, from the sources to the tokens, and what grows with the corpus.

python -P benchmarks/forge_memory.py [--model en_core_web_sm] [--mb 24] [--documents 5000000]

`adamctl forge` runs as it would for people, with every kind of filter, near duplicates and masks of the seed's shares, on pieces of
the standard library. What grows is filled with as many documents as are asked for, in this process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import psutil

sys.path.append(str(Path(__file__).parent))
from forge_filters import EVERYTHING, evaluation_items, pieces
from turns import most_memory

from adam.contract.config import Config
from adam.contract.config_file import to_toml
from adam.contract.config_filters import Filters
from adam.contract.config_forge import Forge, Source
from adam.contract.config_skeletons import Skeletons
from adam.forge.near import PERMUTATIONS, NearIndex, rows_of
from adam.forge.repeats import Repeats
from adam.forge.seen import Digests


def resident() -> float:
    return float(psutil.Process().memory_info().rss) / 1e6


def grown(documents: int, directory: Path) -> None:
    """What `documents` that were kept take of the first process."""
    rng, before = np.random.default_rng(0), resident()
    digests = Digests()
    for _ in range(documents):
        digests.add(rng.bytes(16))
    between, repeats = resident(), Repeats(["a"])
    for _ in range(documents):
        repeats.remember("a", rng.bytes(16))
    again, bands = resident(), PERMUTATIONS // rows_of(0.8)
    near = NearIndex(directory / "near.bands", 0, bands, lambda: None)
    for _ in range(documents):
        near.add(rng.bytes(8 * bands))
    near.close()
    print(
        f"{documents:,} documents: exact duplicates {between - before:,.0f} MB, sources that are read again {again - between:,.0f} MB, "
        f"near duplicates {resident() - again:,.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="en_core_web_sm")
    parser.add_argument("--mb", type=float, default=24.0)
    parser.add_argument("--documents", type=int, default=5_000_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        (root / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in pieces(arguments.mb)))
        (root / "evaluation.jsonl").write_text("\n".join(evaluation_items()))
        forge = Forge(
            sources=(Source(path="texts.jsonl"),), filters=Filters(**EVERYTHING), skeletons=Skeletons(enabled=True, model=arguments.model)
        )  # fmt: skip
        (root / "adam.toml").write_text(to_toml(Config(forge=forge)))
        command = [sys.executable, "-P", "-m", "adam.forge", "--run", str(root)]
        print(
            "the forge's processes:",
            most_memory(lambda: subprocess.run(command, check=True, env=os.environ), mine=False),
        )
        grown(arguments.documents, root)


if __name__ == "__main__":
    main()
