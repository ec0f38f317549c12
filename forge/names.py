"""Which mentions in a document are of one name, so that they get one placeholder."""

import re
from collections.abc import Iterable

ARTICLE = re.compile(r"^(?:the|an?)\s+", re.IGNORECASE)
POSSESSIVE = re.compile(r"['’]s?$")
PEOPLE = frozenset({"PERSON", "PER"})  # labels of people in spaCy's models


def same_name(name: str) -> str:
    """What two mentions of one name have in common: "The  Royal Society's" and "Royal Society"."""
    plain = " ".join(name.split()).casefold()
    return POSSESSIVE.sub("", ARTICLE.sub("", plain)) or plain


def full_names(names: Iterable[str]) -> dict[str, str]:
    """People, as `same_name` writes them -> the longest name that ends in theirs, of those with one: "obama" -> "barack obama".

    Where two people end so ("barack obama" and "michelle obama") nobody knows whose last name it is: it is not there.
    """
    found: dict[str, set[str]] = {}
    known = set(names)
    for name in known:
        words = name.split()
        for first in range(1, len(words)):
            if (end := " ".join(words[first:])) in known:
                found.setdefault(end, set()).add(name)
    longest = {end: {name for name in longer if name not in found} for end, longer in found.items()}
    return {end: longer.pop() for end, longer in longest.items() if len(longer) == 1}
