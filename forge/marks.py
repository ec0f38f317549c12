"""The marks that masking writes into texts. A tokenizer gives each a token of its own."""

from collections.abc import Iterable
from itertools import chain

from adam.contract.config_skeletons import MARK, Skeletons
from adam.forge.documents import Mask


def placeholder(label: str, number: int = 0) -> str:
    """`<PERSON_1>`; without a number `<PERSON>`."""
    return f"<{label}_{number}>" if number else f"<{label}>"


def marks(skeletons: Skeletons) -> tuple[str, ...]:
    """Every mark that this configuration can write, each once, in an order that is the same each time; none where it is off."""
    if not skeletons.enabled:
        return ()
    numbers = range(skeletons.numbers + 1 if skeletons.numbered else 1)
    placeholders = (placeholder(label, number) for label in skeletons.labels for number in numbers)
    searches = chain.from_iterable(MARK.findall(template) for template in skeletons.templates)
    return tuple(dict.fromkeys([*placeholders, *searches]))


def mark_spans(text: str, masks: Iterable[Mask], known: Iterable[str]) -> list[tuple[int, int]]:
    """Where in a masked text marks stand that masking wrote: a `<PERSON>` that was in the text before is none."""
    wanted = frozenset(known)
    return [(mask.start, mask.end) for mask in masks if text[mask.start : mask.end] in wanted]
