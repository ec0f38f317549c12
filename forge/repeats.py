"""A source that is read again gives the documents that it gave, and no others: the filters were asked the first time."""

from collections.abc import Iterable

from adam.forge.documents import Document
from adam.forge.seen import Digests


class Repeats:
    """Knows the documents of the sources that may be read again, how often those were taken that were more than once, and which are in val.

    Args:
        names: those sources.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)
        self.clear()

    def clear(self) -> None:
        """Nothing is in the shards."""
        self._taken = {name: Digests() for name in self._names}
        self._again: dict[str, dict[bytes, int]] = {
            name: {} for name in self._names
        }  # how often, from the second time on
        self._val = Digests()

    def any(self, name: str) -> bool:
        """Whether a source has given anything that can be given again."""
        return len(self._taken[name]) > 0

    def kept(self, document: Document) -> None:
        """A document goes into the shards."""
        self.remember(document.source, document.id, document.split)

    def remember(self, source: str, digest: bytes, split: str) -> None:
        """As `kept`, of one that is in the shards already."""
        taken = self._taken.get(source)
        if taken is None:
            return
        if digest in taken:
            again = self._again[source]
            again[digest] = again.get(digest, 1) + 1
            return
        taken.add(digest)
        if split == "val" and digest not in self._val:
            self._val.add(digest)

    def reason_to_drop(self, document: Document, turn: int) -> str:
        """Why a document is not taken again in the time number `turn` (from 1); empty: it is."""
        if document.id not in self._taken[document.source]:
            return "dropped_before"
        if document.id in self._val:
            return "val_repeated"  # once is enough to measure by
        times = self._again[document.source].get(document.id, 1)
        return "duplicate" if times > turn else ""
