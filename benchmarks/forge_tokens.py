"""How fast the forge encodes, beside the `tokenizers` library as one would use it; all sides take turns on the same texts.

python -P benchmarks/forge_tokens.py [--tokenizer FILE_OR_NAME ...] [--rounds 5] [--mb 4]

The texts are the standard library's, a different part of it in each round. The forge's sides compare, pack, write and hash files,
the library's sides only encode. What a run pays once, to load the faster encoder and compare it before the first token, is told apart.
"""

import argparse
import resource
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from tokenizers import Tokenizer

from adam.contract.config_forge import Forge
from adam.contract.paths import RunPaths
from adam.forge.documents import ShardRecord
from adam.forge.encoders import Encoder, choose_encoder, library_encoder
from adam.forge.loss_spans import PromptFinder
from adam.forge.packing import Marks, Packer
from adam.forge.progress import Progress
from adam.forge.tokenizer import bytes_of_ids, end_of_text, given, ids_of, learn, take_marks_as_text


def cpu() -> float:
    """Seconds of CPU that this process and its children have taken."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def texts() -> Iterator[str]:
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).rglob("*.py")):
        try:
            yield path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def parts(size: int) -> Iterator[list[str]]:
    """Lists of about `size` bytes of texts."""
    part: list[str] = []
    for text in filter(None, texts()):
        part.append(text)
        if sum(map(len, part)) >= size:
            yield part
            part = []


class Forging:
    """The forge's way from texts to files."""

    def __init__(self, tokenizer: Tokenizer, work: Path) -> None:
        self._tokenizer, self._work = tokenizer, work
        self._mark = end_of_text(tokenizer)
        self._finder = PromptFinder(tokenizer, bytes_of_ids(tokenizer, self._mark))
        self._progress = Progress(RunPaths(work), 0, 1, show=False)

        self._fast: Encoder | None = None

    def choose(self, part: list[str]) -> str:
        """What a run does once; the name of what it has chosen."""
        self._fast = choose_encoder(self._tokenizer, iter(part))
        return self._fast.name

    def fast(self, part: list[str]) -> None:
        assert self._fast is not None
        self._pack(self._fast, part)

    def library(self, part: list[str]) -> None:
        self._pack(library_encoder(self._tokenizer, "measured"), part)

    def _pack(self, encoder: Encoder, part: list[str]) -> None:
        dtype = "<u2" if ids_of(self._tokenizer) <= 1 << 16 else "<u4"
        packer = Packer(encoder, self._finder, Marks(self._mark, {}), dtype, self._work, self._progress, lambda: False)
        packer.pack("train", [ShardRecord(text, "", "", "") for text in part])


def measure(name: str, tokenizer: Tokenizer, rounds: int, megabytes: float) -> None:
    with tempfile.TemporaryDirectory() as directory:
        RunPaths(Path(directory)).run.mkdir()
        forging = Forging(tokenizer, Path(directory))
        sides: dict[str, Callable[[list[str]], object]] = {
            "encode in a loop": lambda part: [tokenizer.encode(text, add_special_tokens=False).ids for text in part],
            "encode_batch": lambda part: [e.ids for e in tokenizer.encode_batch(part, add_special_tokens=False)],
            "forge, library": forging.library,
            "forge": forging.fast,
        }
        wall, used = time.perf_counter(), cpu()
        chosen = forging.choose(list(texts())[::200])
        print(f"{name:10} {chosen}: chosen in {time.perf_counter() - wall:.1f} s ({cpu() - used:.1f} s of CPU)")
        taken: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
        for number, part in enumerate(parts(int(megabytes * 1e6))):
            if number == rounds:
                break
            size = sum(len(text.encode()) for text in part) / 1e6
            for side, work in sides.items():
                wall, used = time.perf_counter(), cpu()
                work(part)
                taken[side].append(((time.perf_counter() - wall) / size, (cpu() - used) / size))
    loop = taken["encode in a loop"]
    for side, rows in taken.items():
        wall, used = (median(column) for column in zip(*rows, strict=True))
        wall_ratio, cpu_ratio = (median(a[k] / b[k] for a, b in zip(loop, rows, strict=True)) for k in (0, 1))
        print(
            f"{name:10} {side:18} {1 / wall:7.1f} MB/s {1 / used:7.1f} MB per second of CPU"
            f"   {wall_ratio:6.1f} x the loop ({cpu_ratio:.1f} x by CPU)",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", nargs="*", default=[], help="files or names, beside one learnt from the texts")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mb", type=float, default=4.0, help="megabytes of a round")
    arguments = parser.parse_args()
    made = {"learnt": learn(list(texts())[::10], Forge())}
    made |= {Path(name).stem: given(name, Path.cwd())[0] for name in arguments.tokenizer}
    for name, tokenizer in made.items():
        take_marks_as_text(tokenizer, end_of_text(tokenizer))
        measure(name, tokenizer, arguments.rounds, arguments.mb)


if __name__ == "__main__":
    main()
