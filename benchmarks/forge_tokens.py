"""How fast the forge encodes, beside the `tokenizers` library as one would use it; all sides take turns on the same texts.

python -P benchmarks/forge_tokens.py [--tokenizer FILE_OR_NAME ...] [--rounds 5] [--mb 4]

The texts are the standard library's, a different part of it in each round. The forge's sides compare, pack, write and hash files,
the library's sides only encode. What a run pays once, to load the faster encoder and compare it before the first token, is told apart.
"""

import argparse
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer

from adam.contract.config_forge import Forge
from adam.contract.paths import RunPaths
from adam.forge.documents import ShardRecord
from adam.forge.encoders import Encoder, choose_encoder, library_encoder
from adam.forge.loss_spans import PromptFinder
from adam.forge.packing import Context, Marks, Packer
from adam.forge.progress import Progress
from adam.forge.tokenizer import bytes_of_ids, end_of_text, given, ids_of, learn, take_marks_as_text

sys.path.append(str(Path(__file__).parent))
from turns import Turns, most_memory


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
        self.chosen = ""

    def choose(self, part: list[str]) -> None:
        """What a run does once."""
        self._fast = choose_encoder(self._tokenizer, iter(part))
        self.chosen = self._fast.name

    def fast(self, part: list[str]) -> None:
        assert self._fast is not None
        self._pack(self._fast, part)

    def library(self, part: list[str]) -> None:
        self._pack(library_encoder(self._tokenizer, "measured"), part)

    def _pack(self, encoder: Encoder, part: list[str]) -> None:
        dtype = "<u2" if ids_of(self._tokenizer) <= 1 << 16 else "<u4"
        context = Context(self._finder, Marks(self._mark, {}), self._work, self._progress, lambda: False)
        packer = Packer(encoder, dtype, context)
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
        once = Turns()
        once.take({"once": lambda: forging.choose(list(texts())[::200])}, 1)
        print(f"{name:10} {forging.chosen}: chosen in {once.rate('once', 1, 'wall') ** -1:.1f} s")
        turns = Turns()
        given_parts = list(islice(parts(int(megabytes * 1e6)), rounds))
        memory = most_memory(lambda: forging.fast(given_parts[0]))
        for part in given_parts:
            turns.take({side: partial(work, part) for side, work in sides.items()}, 1)
    size = sum(len(text.encode()) for part in given_parts for text in part) / 1e6 / rounds
    for side in sides:
        rates = [turns.rate(side, size, column) for column in ("wall", "cpu")]
        print(
            f"{name:10} {side:18} {rates[0]:7.1f} MB/s {rates[1]:7.1f} MB per second of CPU;"
            f"  {turns.ratio('encode in a loop', side, 'wall')} x the loop ({turns.ratio('encode in a loop', side)} by CPU)"
            f"  {turns.ratio('encode_batch', side, 'wall')} x encode_batch ({turns.ratio('encode_batch', side)})",
            flush=True,
        )
    print(f"{name:10} memory {memory}; {turns.others()}")


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
