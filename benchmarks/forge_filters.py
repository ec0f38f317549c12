"""What the forge's filters cost, beside what one would write: plain Python for Gopher's rules, rensa on strings for near duplicates.

python -P benchmarks/forge_filters.py [--mb 24] [--pairs 5] [--parts]

Both sides read the same records (pieces of the standard library) from one jsonl file and write jsonl, in turns, in one process each time;
medians of pairs, by CPU and by the clock, and what two processes do. `--parts` says what each rule costs alone.
"""

import argparse
import json
import random
import re
import shutil
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

import pycld2
from rensa import RMinHash

from adam.contract.config import Config
from adam.contract.config_filters import REASONING_WORDS, Filters
from adam.contract.config_forge import Forge, Source
from adam.contract.paths import RunPaths
from adam.forge.build import build_shards
from adam.forge.judge import Judge
from adam.forge.progress import Progress
from adam.forge.quality import BULLETS, ELLIPSES, STOP_WORDS
from adam.forge.repetition import DUPLICATE, LINE_CHARS, LINES, PARAGRAPH_CHARS, PARAGRAPHS, TOP
from adam.forge.secrets_in_text import SECRETS

sys.path.append(str(Path(__file__).parent))
from turns import Turns, most_memory

# Limits that nothing exceeds, so that every rule looks at every document.
EVERYTHING = {
    "min_words": 1, "max_words": 10**9, "min_word_chars": 0.01, "max_word_chars": 1e9, "max_symbols": 1e9, "max_bullets": 1.0,
    "max_ellipses": 1.0, "min_letters": 1e-9, "min_alpha_words": 1e-9, "min_stop_words": 1, "repetition": 1e9,
    "min_reasoning": 1e-9, "languages": tuple(sorted({code for _, code in pycld2.LANGUAGES})), "secrets": True, "poison": True,
    "near_duplicates": 0.8, "evaluation": ("evaluation.jsonl",),
}  # fmt: skip
PIECE = 3000  # characters: about an article of Wikipedia
WORD = re.compile(r"\w+")
LSH_ROWS, PERMUTATIONS = 8, 128


def pieces(megabytes: float) -> list[str]:
    """Documents of the standard library, in an order that is no file's."""
    root, texts, size = Path(sysconfig.get_paths()["stdlib"]), [], 0
    for path in sorted(root.rglob("*.py")):
        if size < megabytes * 1e6 and "site-packages" not in path.parts:
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue
            texts += [text[at : at + PIECE] for at in range(0, len(text), PIECE)]
            size += len(text)
    random.Random(0).shuffle(texts)
    return texts


def evaluation_items() -> Iterator[str]:
    rng = random.Random(1)
    for number in range(2000):
        yield json.dumps(
            {"question": " ".join(f"word{rng.randint(0, 5000)}" for _ in range(40)), "answer": str(number)}
        )


class Plain:
    """The same rules as one writes them down, a document at a time."""

    def __init__(self, evaluation: Path) -> None:
        self._seen: set[str] = set()
        self._bands: set[tuple[int, ...]] = set()
        self._tested: set[tuple[str, ...]] = set()
        for line in evaluation.read_text().splitlines():
            words = WORD.findall(" ".join(json.loads(line).values()).lower())
            self._tested |= {tuple(words[i : i + 13]) for i in range(len(words) - 12)}

    def keeps(self, text: str) -> bool:
        words = WORD.findall(text.lower())
        return not (
            text in self._seen
            or self._bad_quality(text, words)
            or self._repeats(text, words)
            or any(form.search(text) for _, _, form in SECRETS)
            or any(tuple(words[i : i + 13]) in self._tested for i in range(len(words) - 12))
            or self._other_language(text)
            or self._near(words)
            or self._seen.add(text)
        )

    @staticmethod
    def _bad_quality(text: str, words: list[str]) -> bool:
        count, lines, parts = max(1, len(words)), text.split("\n"), text.split()
        values = (
            sum(map(len, words)) / count,
            text.count("#") / count,
            (text.count("…") + text.count("...")) / count,
            sum(line.strip().startswith(BULLETS) for line in lines) / len(lines),
            sum(line.strip().endswith(ELLIPSES) for line in lines) / len(lines),
            sum(char.isalpha() for char in text) / max(1, len(text)),
            sum(any(char.isalpha() for char in part) for part in parts) / max(1, len(parts)),
            len(set(STOP_WORDS) & set(words)),
            sum(word in REASONING_WORDS for word in words) / count,
        )
        return min(values) < 0

    @staticmethod
    def _repeats(text: str, words: list[str]) -> bool:
        total, bad = max(1, sum(map(len, words))), False
        for mark, limit, char_limit in (("\n", LINES, LINE_CHARS), ("\n\n", PARAGRAPHS, PARAGRAPH_CHARS)):
            parts = Counter(part.strip() for part in text.split(mark) if part.strip())
            again = sum(count - 1 for count in parts.values())
            characters = sum(len(part) * (count - 1) for part, count in parts.items())
            bad |= again > 1e9 * limit or characters > 1e9 * char_limit
        for n, limit in TOP.items():
            grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
            if grams:
                gram, count = grams.most_common(1)[0]
                bad |= sum(map(len, gram)) * count / total > 1e9 * limit
        for n, limit in DUPLICATE.items():
            seen, covered = set(), set()
            for i in range(len(words) - n + 1):
                gram = tuple(words[i : i + n])
                if gram in seen:
                    covered.update(range(i, i + n))
                seen.add(gram)
            bad |= sum(len(words[i]) for i in covered) / total > 1e9 * limit
        return bad

    @staticmethod
    def _other_language(text: str) -> bool:
        return (
            pycld2.detect("".join(char if char.isprintable() else " " for char in text), bestEffort=True)[2][0][1]
            == "xx"
        )

    def _near(self, words: list[str]) -> bool:
        sketch = RMinHash(num_perm=PERMUTATIONS, seed=1)
        sketch.update([" ".join(words[i : i + 5]) for i in range(len(words) - 4)])
        digest = sketch.digest()
        bands = {(at, *digest[at : at + LSH_ROWS]) for at in range(0, PERMUTATIONS, LSH_ROWS)}
        near = bool(bands & self._bands)
        self._bands |= bands
        return near


def plain(source: Path, target: Path, keeps: Callable[[str], bool]) -> None:
    with source.open() as lines, target.open("w") as out:
        for line in lines:
            text = json.loads(line)["text"]
            if keeps(text):
                out.write(json.dumps({"text": text}) + "\n")


def forged(root: Path, source: Path, workers: int, **filters: object) -> None:
    paths = RunPaths(root / "run")
    paths.run.mkdir(parents=True)
    shutil.copy(root / "evaluation.jsonl", paths.root)
    rules = {"val_apart": bool(filters), "filters": Filters(**filters)}
    config = Config(forge=Forge(sources=(Source(path=str(source)),), min_chars=1, workers=workers, **rules))
    progress = Progress(paths, 0, 1, show=False)
    build_shards(config, paths, progress, lambda: False)
    progress.close()
    shutil.rmtree(paths.root)


def compare(name: str, size: float, pairs: int, ours: Callable[[], object], theirs: Callable[[], object]) -> None:
    turns = Turns()
    turns.take({"ours": ours, "theirs": theirs}, pairs)
    rates = [turns.rate(side, size, column) for side in ("ours", "theirs") for column in ("cpu", "wall")]
    print(
        f"{name}: {rates[0]:.1f} MB a CPU second, {rates[1]:.1f} MB/s; as one would write it {rates[2]:.2f}, {rates[3]:.2f}; "
        f"{turns.ratio('theirs', 'ours')} times by CPU, {turns.ratio('theirs', 'ours', 'wall')} by the clock; {turns.others()}",
        flush=True,
    )


def by_processes(name: str, size: float, rounds: int, work: Callable[[int], object]) -> None:
    """What a second process is worth, and what the first one has to do itself, which no further one takes from it."""
    turns = Turns()
    turns.take({"1": partial(work, 1), "2": partial(work, 2)}, rounds)
    first = median(taken.first for taken in turns.taken["2"]) / size * 1000
    walls = [turns.rate(count, size, "wall") for count in "12"]
    print(
        f"{name}: {walls[0]:.1f} MB/s by one process, {walls[1]:.1f} by two (their start included), "
        f"the first of which takes {first:.1f} ns a byte; {turns.others()}",
        flush=True,
    )


def parts(root: Path, texts: list[str], size: float) -> None:
    asked = [("a", text) for text in texts]
    for key in (None, *EVERYTHING, "all"):
        rules = EVERYTHING if key == "all" else {key: EVERYTHING[key]} if key else {}
        judge = Judge(Forge(min_chars=1, val_apart=False, filters=Filters(**rules)), {"a": Source()}, root)
        judge.judge(asked[:100])
        turns = Turns()
        turns.take({"": partial(judge.judge, asked)}, 3)
        rate = turns.rate("", size)
        print(f"  {key or 'lengths alone':18} {1000 / rate:6.1f} ns a byte  ({rate:.1f} MB a CPU second)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=float, default=24.0)
    parser.add_argument("--fewer", type=int, default=8, help="of that, one of so many bytes for the plain filters")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--parts", action="store_true")
    arguments = parser.parse_args()
    texts = pieces(arguments.mb)
    size = sum(len(text.encode()) for text in texts) / 1e6
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        source, target = root / "texts.jsonl", root / "out.jsonl"
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        (root / "evaluation.jsonl").write_text("\n".join(evaluation_items()))
        print(f"{len(texts)} documents, {size:.1f} MB")
        if arguments.parts:
            parts(root, texts, size)
        seen: set[str] = set()
        compare(
            "read, exact duplicates, write", size, arguments.pairs, lambda: forged(root, source, 1),
            lambda: (seen.clear(), plain(source, target, lambda text: text not in seen and not seen.add(text))),
        )  # fmt: skip
        few, small = root / "few.jsonl", texts[: len(texts) // arguments.fewer]
        few.write_text("".join(json.dumps({"text": text}) + "\n" for text in small))
        compare(
            "the whole path, every filter", sum(len(text.encode()) for text in small) / 1e6, arguments.pairs,
            lambda: forged(root, few, 1, **EVERYTHING),
            lambda: plain(few, target, Plain(root / "evaluation.jsonl").keeps),
        )  # fmt: skip
        by_processes("every filter", size, arguments.pairs, lambda workers: forged(root, source, workers, **EVERYTHING))
        print("memory of all processes:", most_memory(lambda: forged(root, source, 2, **EVERYTHING)))


if __name__ == "__main__":
    main()
