"""Documents that are looked at together: what several rules ask of their texts is computed once."""

from collections.abc import Sequence
from functools import cached_property

from adam.forge.words import Words

LOOKED_AT = 4_000_000  # characters of a document that rules on words look at: memory has an end


class Batch:
    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts

    @cached_property
    def words(self) -> Words:
        return Words([text[:LOOKED_AT] for text in self.texts])

    @cached_property
    def lines(self) -> list[list[str]]:
        """Of each document the lines with something in them, without the blanks around."""
        return [stripped(text, "\n") for text in self.texts]


def stripped(text: str, mark: str) -> list[str]:
    """The parts between marks that have something in them, without the blanks around."""
    return [part for part in map(str.strip, text.split(mark)) if part]
