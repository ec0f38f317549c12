"""Where a killed forge had stopped: its journal, what is in its shards, and its sources as they were."""

import shutil
import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from adam.contract import schema
from adam.contract.config_forge import Forge
from adam.contract.errors import DataError, StoppedError
from adam.contract.paths import RunPaths
from adam.contract.shards import SOURCES, SPLITS
from adam.contract.states import Phase
from adam.forge.filters import check_state
from adam.forge.hub import HubError
from adam.forge.journal import Journal
from adam.forge.progress import Progress
from adam.forge.reading import Patience
from adam.forge.repeats import Repeats
from adam.forge.seen import Digests
from adam.forge.writer import cut_back, heads_in

Asked = TypeVar("Asked")

log = structlog.get_logger()


def journal_of(paths: RunPaths, config_digest: str, ner_model: str) -> Journal | None:
    """The journal of a killed forge with this configuration; None where there is none that can be gone on with."""
    try:
        journal = schema.load(paths.shards_work / "journal.json", Journal)
        if journal is not None and (journal.config_digest, journal.ner_model) != (config_digest, ner_model):
            raise DataError("the configuration has changed, or the model that finds entities")
    except DataError as error:
        log.warning("starting again", why=str(error))
        return None
    return journal


class Known:
    """The documents that are in the shards: all of them for the filters, those of sources that may be read again by their source."""

    def __init__(self, config: Forge) -> None:
        again = {name for phase in config.phases if phase.when_dry == "repeat" for name in phase.shares}
        self.seen = Digests()
        self.repeats = Repeats(again)

    def clear(self) -> None:
        self.seen = Digests()
        self.repeats.clear()


def patiently(ask: Callable[[], Asked], config: Forge, progress: Progress, stop: Callable[[], bool]) -> Asked:
    """What `ask` gives; a Hub that can't be reached is waited for."""
    patience = Patience(config.retry_minutes * 60)
    while True:
        try:
            return ask()
        except HubError as error:
            wait = patience.wait_for(error, time.monotonic())
            if wait is None:
                raise
            progress.enter(Phase.READING, 0)
            log.warning("the Hub fails and is tried again", why=error.args[0], seconds=round(wait, 1))
            wait_for(wait, progress, stop)
            if stop():
                raise StoppedError("stopped while waiting for the Hub; the next start tries again") from None


def wait_for(seconds: float, progress: Progress, stop: Callable[[], bool]) -> None:
    """Let time pass, with signs of life, until somebody asks for an end."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not stop():
        progress.tick()
        time.sleep(min(0.1, left))


def go_on(
    config: Forge, paths: RunPaths, journal: Journal | None, fresh: Journal, known: Known, tick: Callable[[], object]
) -> Journal:
    """The journal of a killed forge, with what is in its shards in `known`, or a fresh one with nothing on disk."""
    work = paths.shards_work
    try:
        if journal is not None:
            if journal.listing_digest != fresh.listing_digest:
                raise DataError("the sources have changed")
            if (work / "manifest.json").exists():
                return journal
            cut_back(work, journal)
            check_state(config, paths.root, work, journal.filters, begun=bool(journal.counts))
            documents = 0
            for split, head in heads_in(work):
                digest = bytes.fromhex(head.id)
                known.seen.add(digest)
                known.repeats.remember(head.source, digest, split)
                documents += 1
                tick()
            log.info("going on", documents=documents, bytes_read=journal.bytes_read)
            return journal
    except (DataError, ValueError) as error:
        log.warning("starting again", why=str(error))
    known.clear()
    # Files that were moved but never got their manifest go too.
    for path in list(paths.shards.glob("*.jsonl")):
        if path.name.startswith((*SPLITS, SOURCES)):
            path.unlink()
    shutil.rmtree(work, ignore_errors=True)
    return fresh
