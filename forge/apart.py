"""What becomes of near duplicates: dropped where that is asked for, and never on both sides of the split.

A document that is like one that was kept goes to the side of that one, whatever its own hash says; where it can't (it is like some
on either side, or belongs to a book whose side is another) it is dropped.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from adam.contract.config_forge import Forge
from adam.forge.documents import EXAMPLE_CHARS, Document, Verdict, split_of
from adam.forge.near import shape_of
from adam.forge.near_index import Alike, NearIndex

SIMILAR = 0.8  # what must not be on both sides where no other similarity is asked for
# Below it, too: similarities are estimates, off by 0.035, so of 1,000 pairs above it no more than 2 are taken to be below.
MARGIN = 0.1
SHOWN_PATH = 90  # characters, its last ones


def similarity_asked(config: Forge) -> float:
    """From which similarity on two documents are near duplicates; 0: nobody asks for any."""
    return config.filters.near_duplicates or (SIMILAR if config.val_apart else 0.0)


class Apart:
    """Arguments as `NearIndex`'s."""

    def __init__(self, config: Forge, work: Path, state: Mapping[str, int], tick: Callable[[], object]) -> None:
        asked = similarity_asked(config)
        self._drops, self._val_fraction = bool(config.filters.near_duplicates), config.val_fraction
        self._asked, self._least = asked, asked - (MARGIN if config.val_apart else 0.0)
        self._sides = config.val_apart
        self._index = NearIndex(work, state, shape_of(asked), tick)

    def reason_to_drop(self, document: Document, verdict: Verdict) -> str:
        """Why a document is dropped; empty: it is kept and remembered, and has its `split`."""
        found = self._index.find(verdict.signature, verdict.bands, self._least)
        if self._drops and found.alike and found.alike[0].similarity >= self._asked:
            self._show(document, found.alike[0])
            return "near_duplicate"
        document.split = split_of(document, self._val_fraction)
        if self._sides and (others := [one for one in found.alike if one.split != document.split]):
            if document.group or len(others) < len(found.alike):
                self._show(document, others[0])
                return "near_other_split"
            document.split = others[0].split
        self._index.add(document, verdict.signature, verdict.bands, found.free)
        return ""

    def _show(self, document: Document, other: Alike) -> None:
        path, record = self._index.called(other.row)
        shown = path if len(path) <= SHOWN_PATH else "…" + path[-SHOWN_PATH:]
        document.example = f"[{other.similarity:.2f}, record {record} of {shown}] {document.text[:EXAMPLE_CHARS]}"

    def sync(self) -> dict[str, int]:
        return self._index.sync()

    def close(self) -> None:
        self._index.close()
