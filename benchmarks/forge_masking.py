"""Masking beside what a user would write with `datasets.map` and spaCy, and beside spaCy's NER alone; all in turn, in one run.

python -P benchmarks/forge_masking.py [--model en_core_web_sm] [--documents 40] [--rounds 5]

Every document is searched for entities and masked on each side. Models are loaded before the clocks start. `CPU` counts all
processes of a side; the rate of NER alone for two cores is twice the one of its process. Memory is PSS, this script's own part included.
"""

import argparse
import functools
import pydoc_data.topics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import spacy

from adam.contract.config_skeletons import Skeletons
from adam.forge.documents import Document, document_hash
from adam.forge.ner import find_model, load_finder
from adam.forge.skeletons import Masking

sys.path.append(str(Path(__file__).parent))
from turns import Turns, most_memory

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


def masked_all(masking: Masking, documents: list[Document]) -> list[Document]:
    return masking.begin(documents)()


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
        started._recogniser.ask(["Paris " * 3000] * 2 * PROCESSES)()  # each process has its model
        return started

    every, share = masking(share=1.0, search_share=0.0), masking()
    options: dict[str, Any] = {"keep_in_memory": True, "load_from_cache_file": False, "fn_kwargs": {"model": model}}
    return {
        "datasets.map, whole model": lambda: data.map(one, **options),
        "datasets.map, fewer components, batches, 2 processes": lambda: data.map(
            many, batched=True, batch_size=10, num_proc=PROCESSES, **options
        ),
        "NER alone, 1 process": lambda: [[(e.start_char, e.end_char, e.label_) for e in alone(t).ents] for t in texts],
        "ours, every document": functools.partial(masked_all, every, documents),
        "ours, shares of the seed": functools.partial(masked_all, share, documents),
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
    turns, tried = Turns(), sides(arguments.model, texts)
    whole, fewer, alone, ours, shares = tried
    memory = {name: most_memory(tried[name]) for name in (fewer, ours)}
    turns.take(tried, arguments.rounds)
    print(f"{len(texts)} documents, {size:.0f} kB, medians of {arguments.rounds} rounds; {turns.others()}")
    for name in tried:
        rates = [turns.rate(name, size, column) for column in ("wall", "cpu")]
        print(f"{name:54} {rates[0]:7.1f} kB/s  {rates[1]:7.1f} kB per CPU second  {memory.get(name, '')}")
    for slow, fast in ((whole, ours), (fewer, ours), (whole, shares), (fewer, shares)):
        print(f"{fast} / {slow}: {turns.ratio(slow, fast, 'wall')} of the clock, {turns.ratio(slow, fast)} of the CPU")
    print(
        f"{ours} / {alone}: {turns.ratio(alone, ours, 'wall')} of the clock ({PROCESSES} processes), {turns.ratio(alone, ours)} of the CPU"
    )
    first = sum(taken.first for taken in turns.taken[ours]) / arguments.rounds / size
    print(f"of that the forge's first process: {first * 1e6:.0f} ns a character")


if __name__ == "__main__":
    main()
