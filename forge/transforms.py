"""What is done to documents between the filters and the shards: skeletons, search trajectories."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from adam.contract.config_forge import Forge, Source
from adam.forge.documents import Document
from adam.forge.skeletons import Masking, masking_model

# A batch has no more of either, but for one document that is larger itself.
BATCH_DOCUMENTS, BATCH_CHARS = 250, 500_000
BEGUN = 8  # batches at work at a time: enough for the processes of 64 cores, and what an end has to wait for


class Transform(Protocol):
    """Changes documents in batches, where it likes in processes of its own.

    What becomes of a document hangs on this document alone (its `id` may seed a choice): batches end where the journal is
    written, so they are others after a kill, and the bytes of the shards must not be.
    """

    def begin(self, documents: list[Document]) -> Callable[[], list[Document]]:
        """Begin with these; what is given back waits for them. Both raise AdamError.

        They are as many as were given, in their order; `id`, `source`, `path` and `group` stay.
        """

    def close(self) -> None:
        """Let go of processes. Called once, after an error too."""


def begin_all(transforms: Sequence[Transform], documents: list[Document]) -> Callable[[], list[Document]]:
    """As `Transform.begin`, one behind the other: those behind the first begin when it is waited for."""
    first, *others = [transform.begin for transform in transforms]
    done = first(documents)
    for begin in others:
        done = partial(_begin_behind, begin, done)
    return done


def _begin_behind(
    begin: Callable[[list[Document]], Callable[[], list[Document]]], before: Callable[[], list[Document]]
) -> list[Document]:
    return begin(before())()


def open_transforms(
    config: Forge, sources: Mapping[str, Source], run: Path, tick: Callable[[], object]
) -> list[Transform]:
    """The transforms that are asked for, in order. Raises ConfigError where one can't be had (a model that is not installed).

    Args:
        sources: the section of each source by its name.
        run: what relative paths are seen from.
        tick: a sign of life while one works.
    """
    model = masking_model(config, run)
    return [] if model is None else [Masking(config.skeletons, sources, model, tick)]
