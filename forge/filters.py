"""Which documents are kept: what a document says by itself (judge.py), and what came before it."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from adam.contract.config_forge import Forge, Source
from adam.contract.errors import DataError
from adam.forge.apart import Apart, similarity_asked
from adam.forge.documents import Document, Verdict, split_of
from adam.forge.judge import Judge
from adam.forge.near_index import check_files
from adam.forge.seen import Digests
from adam.forge.workers import Workers, cores

ALONE_CHARS = 8_000_000  # about as much as one process judges while others start


class Filters:
    """Drops documents and says why.

    Args:
        config: of the forge.
        sources: the section of each source by its name, for settings that a source has of its own.
        seen: `id` of the documents that were kept so far; added to.
        root: the run directory, which the names of evaluation sets are seen from.
        work: a directory for files of its own (`shards/.work`): removed behind the last document.
        state: what `sync` said when the journal was written that this forge goes on from; empty: from the start.
        tick: a sign of life.

    Raises ConfigError (a rule whose package is not installed), DataError (an evaluation set that can't be read).
    """

    def __init__(
        self,
        config: Forge,
        sources: Mapping[str, Source],
        seen: Digests,
        root: Path,
        work: Path,
        state: Mapping[str, int],
        tick: Callable[[], object],
    ) -> None:
        self._seen = seen
        judge = Judge(config, sources, root)
        alone = 0 if config.workers else ALONE_CHARS
        self._workers = Workers(judge, (config.workers or cores()) if judge.costly else 1, alone)
        self._evaluation = evaluation_digest(config, root)
        self._val_fraction = config.val_fraction
        self._near = Apart(config, work, state, tick) if similarity_asked(config) else None

    def judge(self, documents: Sequence[Document]) -> Callable[[], None]:
        """Begin with the verdicts on these; what is given back waits for them. Whoever has none is judged when it is taken."""
        asked = [document for document in documents if not document.dropped]
        answer = self._workers.ask([(document.source, document.text) for document in asked])

        def settle() -> None:
            for document, verdict in zip(asked, answer(), strict=True):
                document.verdict = verdict

        return settle

    def reason_to_drop(self, document: Document) -> str:
        """Why a document is dropped, as it is counted; empty: it is kept, remembered, and has its `split`.

        Called once for each document in their order, before transforms; `id`, `source` and `path` are filled in. Where another
        part of the text than its beginning shows why, `document.example` is set.
        """
        if document.verdict is None:
            self.judge([document])()
        verdict = document.verdict or Verdict()
        if verdict.reason:
            document.example = document.example or verdict.example
            return verdict.reason
        if document.id in self._seen:
            return "duplicate"
        if self._near is not None and verdict.bands:
            if reason := self._near.reason_to_drop(document, verdict):
                return reason
        else:
            document.split = split_of(document, self._val_fraction)
        self._seen.add(document.id)
        return ""

    def sync(self) -> dict[str, int]:
        """Make files in `work` durable; what the journal keeps for the next start (sizes to cut them back to)."""
        state = {"evaluation": self._evaluation} if self._evaluation else {}
        return state | (self._near.sync() if self._near is not None else {})

    def close(self) -> None:
        """Let go of processes and files. Called once, after an error too."""
        self._workers.close()
        if self._near is not None:
            self._near.close()


def check_state(config: Forge, root: Path, work: Path, state: Mapping[str, int], *, begun: bool) -> None:
    """Raise DataError where a journal's `state` can't be gone on from: files that are gone or shorter, other evaluation sets.

    `begun`: it has documents already.
    """
    if similarity_asked(config):
        if begun and "near_paths" not in state:
            raise DataError("its journal is of an older Adam, which remembered less of near duplicates")
        check_files(work, state)
    if state and evaluation_digest(config, root) != state.get("evaluation", 0):
        raise DataError("the evaluation sets of forge.filters.evaluation have changed")


def evaluation_digest(config: Forge, root: Path) -> int:
    """Of the bytes of all evaluation sets; 0 where there is none. Raises DataError where one is not there."""
    digest = hashlib.sha256()
    for name in config.filters.evaluation:
        path = root / Path(name).expanduser()
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            raise DataError(
                f"no evaluation set at {path}: {error.strerror}", "correct forge.filters.evaluation"
            ) from None
    return int.from_bytes(digest.digest()[:7], "big") if config.filters.evaluation else 0
