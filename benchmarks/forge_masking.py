"""Masking beside what a user would write with `datasets.map` and spaCy, and beside spaCy's NER alone; all in turn, in one run.

python -P benchmarks/forge_masking.py [--model en_core_web_sm] [--documents 40] [--rounds 5]

Every document is searched for entities and masked on each side. Models are loaded before the clocks start. `CPU` counts all
processes of a side; the rate of NER alone for two cores is twice the one of its process.
"""

import argparse
import functools
import pydoc_data.topics
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import psutil
import spacy

from adam.contract.config_skeletons import Skeletons
from adam.forge.documents import Document, document_hash
from adam.forge.ner import find_model, load_finder
from adam.forge.skeletons import Masking

CHARS = 4096  # of a document, as the seed cuts them
PROCESSES = 2
NOT_NEEDED = ("parser", "tagger", "lemmatizer")  # the seed's; an attribute ruler and the tagger's vectors still run
LABELS = ("PERSON", "ORG", "GPE")


# What a user would write. The models are cached, so that forked processes have them already.


@functools.cache
def loaded(model: str, disable: tuple[str, ...]) -> Any:
    return spacy.load(model, disable=disable)


def masked(doc: Any) -> str:
    text = doc.text
    for entity in reversed(doc.ents):
        if entity.label_ in LABELS:
            text = f"{text[: entity.start_char]}<{entity.label_}>{text[entity.end_char :]}"
    return str(text)


def one(row: dict[str, str], model: str) -> dict[str, str]:
    return {"text": masked(loaded(model, ())(row["text"]))}


def many(rows: dict[str, list[str]], model: str) -> dict[str, list[str]]:
    return {"text": [masked(doc) for doc in loaded(model, NOT_NEEDED).pipe(rows["text"], batch_size=50)]}


def cpu_seconds() -> float:
    """Of this process, of its children that have ended, and of those that live."""
    own, ended = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    living = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(t.ru_utime + t.ru_stime for t in (own, ended)) + sum(t.user + t.system for t in living)


def sides(model: str, texts: list[str]) -> dict[str, Callable[[], object]]:
    """Name -> masks (or only searches) all texts."""
    for unneeded in ((), NOT_NEEDED):
        loaded(model, unneeded)
    data = datasets.Dataset.from_dict({"text": texts})
    found = find_model(model, Path(), LABELS)
    alone = load_finder(str(found.directory))
    documents = [Document(text, id=document_hash(text)) for text in texts]

    def masking(**keys: Any) -> Masking:
        started = Masking(Skeletons(enabled=True, processes=PROCESSES, **keys), {}, found, lambda: None)
        started._recogniser.entities(["Paris " * 3000] * 2 * PROCESSES)  # each process has its model
        return started

    every, share = masking(share=1.0, search_share=0.0), masking()
    options: dict[str, Any] = {"keep_in_memory": True, "load_from_cache_file": False, "fn_kwargs": {"model": model}}
    return {
        "datasets.map, whole model": lambda: data.map(one, **options),
        "datasets.map, fewer components, batches, 2 processes": lambda: data.map(
            many, batched=True, batch_size=10, num_proc=PROCESSES, **options
        ),
        "NER alone, 1 process": lambda: [[(e.start_char, e.end_char, e.label_) for e in alone(t).ents] for t in texts],
        "ours, every document": lambda: every.apply(documents),
        "ours, shares of the seed": lambda: share.apply(documents),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="en_core_web_sm")
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    datasets.disable_progress_bars()
    text = "\n\n".join(pydoc_data.topics.topics.values())
    texts = [text[at : at + CHARS] for at in range(0, CHARS * arguments.documents, CHARS)]
    size = sum(map(len, texts)) / 1e3
    walls: dict[str, list[float]] = {}
    cpus: dict[str, list[float]] = {}
    tried = sides(arguments.model, texts)
    for _ in range(arguments.rounds):
        for name, work in tried.items():
            wall, cpu = time.perf_counter(), cpu_seconds()
            work()
            cpus.setdefault(name, []).append(cpu_seconds() - cpu)
            walls.setdefault(name, []).append(time.perf_counter() - wall)
    print(f"{len(texts)} documents, {size:.0f} kB, medians of {arguments.rounds} rounds")
    for name in tried:
        print(
            f"{name:54} {size / statistics.median(walls[name]):7.1f} kB/s  {size / statistics.median(cpus[name]):7.1f} kB per CPU second"
        )

    def ratio(times: dict[str, list[float]], slow: str, fast: str) -> float:
        return statistics.median(a / b for a, b in zip(times[slow], times[fast], strict=True))

    whole, fewer, alone, ours, shares = tried
    for slow, fast in ((whole, ours), (fewer, ours), (whole, shares), (fewer, shares)):
        print(f"{fast} / {slow}: {ratio(walls, slow, fast):.2f} of the clock, {ratio(cpus, slow, fast):.2f} of the CPU")
    print(
        f"{ours} / (2 x {alone}): {ratio(walls, alone, ours) / PROCESSES:.3f} of the clock, {ratio(cpus, alone, ours):.3f} of the CPU"
    )


if __name__ == "__main__":
    main()
