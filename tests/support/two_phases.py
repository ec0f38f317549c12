"""A run whose data has two phases that share no letter, so that a sample says whose it is."""

import random
from pathlib import Path

from real_run import CONFIG

LETTERS = {"early": "abcdefghijklm", "late": "nopqrstuvwxyz"}
PHASES = """
[[forge.phases]]
name = "calm"
shares = {{ early = 1 }}

[[forge.phases]]
name = "wild"
shares = {{ late = 1 }}
"""
TWO_PHASES = (
    CONFIG.replace('path = "{text}"', 'path = "{text}/early"\n\n[[forge.sources]]\npath = "{text}/late"', 1).replace(
        "vocab_size = 512", "vocab_size = 300"
    )
    + PHASES
)


def write_texts(folder: Path, documents: int, words: tuple[int, int]) -> None:
    """`words`: the fewest and the most of a document."""
    for number, (name, letters) in enumerate(LETTERS.items()):
        rng = random.Random(number)
        (folder / name).mkdir(parents=True)
        for document in range(documents):
            text = " ".join("".join(rng.choices(letters, k=rng.randint(2, 7))) for _ in range(rng.randint(*words)))
            (folder / name / f"{document:03d}.txt").write_text(text)


def phase_of(text: str) -> str:
    """The name of the folder whose letters a text has; "both" where it has both."""
    found = [name for name, letters in LETTERS.items() if set(text) & set(letters)]
    return found[0] if len(found) == 1 else "both"
