"""Which documents are kept."""

from collections.abc import Mapping
from pathlib import Path

from adam.contract.config_forge import Forge, Source
from adam.forge.documents import Document


class Filters:
    """Length and exact duplicates.

    Args:
        config: of the forge.
        sources: the section of each source by its name, for settings that a source has of its own.
        seen: `id` of the documents that were kept so far; added to.
        work: a directory for files of its own (`shards/.work`): removed behind the last document.
        state: what `sync` said when the journal was written that this forge goes on from; empty: from the start.
    """

    def __init__(
        self, config: Forge, sources: Mapping[str, Source], seen: set[bytes], work: Path, state: Mapping[str, int]
    ) -> None:
        del sources, work, state  # length and duplicates have no settings of a source and no files
        self._config, self._seen = config, seen

    def reason_to_drop(self, document: Document) -> str:
        """Why a document is dropped, as it is counted; empty: it is kept, and remembered.

        Called once for each document in their order, before transforms; `id`, `source` and `path` are filled in. Where another
        part of the text than its beginning shows why, `document.example` is set.
        """
        if len(document.text) < self._config.min_chars:
            return "too_short"
        if len(document.text) > self._config.max_chars:
            return "too_long"
        if document.id in self._seen:
            return "duplicate"
        self._seen.add(document.id)
        return ""

    def sync(self) -> dict[str, int]:
        """Make files in `work` durable; what the journal keeps for the next start (sizes to cut them back to)."""
        return {}
