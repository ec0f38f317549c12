"""Which documents are kept, and which split they belong to."""

import hashlib

from adam.contract.config import Forge


class Filters:
    """Length and exact duplicates. `seen` has the hashes of the documents that were kept so far, and is added to."""

    def __init__(self, config: Forge, seen: set[bytes]) -> None:
        self._config, self._seen = config, seen

    def reason_to_drop(self, text: str, digest: bytes) -> str:
        """Why a document is dropped, as it is counted; empty: it is kept, and remembered."""
        if len(text) < self._config.min_chars:
            return "too_short"
        if len(text) > self._config.max_chars:
            return "too_long"
        if digest in self._seen:
            return "duplicate"
        self._seen.add(digest)
        return ""


def document_hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]


def split_of(digest: bytes, val_fraction: float) -> str:
    """By the hash of its text alone: equal texts can't be on both sides, and a new document moves no other."""
    return "val" if int.from_bytes(digest[:8], "big") < val_fraction * 2**64 else "train"
