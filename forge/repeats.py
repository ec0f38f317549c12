"""A source that is read again gives the documents that it gave, and no others: the filters were asked the first time."""

from collections.abc import Iterable

from adam.forge.documents import Document


class Repeats:
    """Knows the documents of the sources that may be read again: 16 bytes and a count of each, and which are in val.

    Args:
        names: those sources.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._times: dict[str, dict[bytes, int]] = {name: {} for name in names}
        self._val: set[bytes] = set()

    def clear(self) -> None:
        """Nothing is in the shards."""
        for times in self._times.values():
            times.clear()
        self._val.clear()

    def any(self, name: str) -> bool:
        """Whether a source has given anything that can be given again."""
        return bool(self._times[name])

    def kept(self, document: Document) -> None:
        """A document goes into the shards."""
        self.remember(document.source, document.id, document.split)

    def remember(self, source: str, digest: bytes, split: str) -> None:
        """As `kept`, of one that is in the shards already."""
        if source in self._times:
            times = self._times[source]
            times[digest] = times.get(digest, 0) + 1
            if split == "val":
                self._val.add(digest)

    def reason_to_drop(self, document: Document, turn: int) -> str:
        """Why a document is not taken again in the time number `turn` (from 1); empty: it is."""
        times = self._times[document.source].get(document.id, 0)
        if times == 0:
            return "dropped_before"
        if document.id in self._val:
            return "val_repeated"  # once is enough to measure by
        return "duplicate" if times > turn else ""
