"""Sources to shards: resumable, counted, and the same bytes however often it was killed.

phases ──> whose turn ──> its next document ──> filters ──> transforms ──> shards/.work/*.jsonl ──> manifest ──> publish
 mix.py                    reading.py                                             │
                                                                                  └──> shards/.work/journal.json
                                                                                       (a restart goes on from here)
"""

import os
import time
from collections import deque
from collections.abc import Callable

import msgspec
import structlog

from adam.contract import schema
from adam.contract.clock import stamp
from adam.contract.config import Config
from adam.contract.config_forge import Forge, forge_digest
from adam.contract.durable import free_bytes, require_room
from adam.contract.errors import StoppedError
from adam.contract.paths import RunPaths
from adam.contract.shards import NOT_NEEDED, SOURCES, UNOPENED, ShardManifest, SourceFile, hashed
from adam.contract.states import Phase as ForgePhase
from adam.forge.documents import Document, document_hash, shard_record
from adam.forge.dropped import count_dropped
from adam.forge.evaluation_sets import fetch_sets, summaries, with_files
from adam.forge.files import File
from adam.forge.filters import Filters
from adam.forge.finish import check_not_empty, phase_summaries, publish, revisions, summary
from adam.forge.hub import HubError
from adam.forge.journal import Counts, Cursor, Journal
from adam.forge.mix import ORDER, Mix, PhaseState
from adam.forge.parts import opener_of
from adam.forge.progress import Progress
from adam.forge.reading import Ahead, FileEnd, Patience, SourceReader
from adam.forge.resume import Known, go_on, journal_of, patiently, wait_for
from adam.forge.room import disk_needed, text_bytes_expected
from adam.forge.skeletons import count_masked, masking_version
from adam.forge.sources import Origin, file_status, file_text, listing_digest, open_sources
from adam.forge.transforms import BATCH_CHARS, BATCH_DOCUMENTS, BEGUN, begin_all, open_transforms
from adam.forge.writer import ShardWriter

JOURNAL_BYTES = 64_000_000  # of text, between two journals; a shard that is closed writes one too
LISTED_SKIPS = 1000
LISTED_LEFT_OUT = 3  # of each reason and source
CHARS_PER_TOKEN = {"prose": 4.5, "code": 3.2}  # GPT-NeoX's on English prose and on Python

log = structlog.get_logger()


def build_shards(
    config: Config, paths: RunPaths, progress: Progress, stop: Callable[[], bool], free: Callable[..., int] = free_bytes
) -> ShardManifest:
    """Make the shards of a run, going on where a killed forge had stopped.

    Raises DataError (a source that is missing or empty), DiskError (no room), StoppedError (somebody asked).
    """
    digest = forge_digest(config.forge)
    ner_model = masking_version(config.forge, paths.root)
    found = journal_of(paths, digest, ner_model)
    pins = found.pins if found else {}
    origins = patiently(lambda: open_sources(config.forge, paths.root, pins), config.forge, progress, stop)
    sets = patiently(lambda: fetch_sets(config.forge, pins), config.forge, progress, stop)
    forge = with_files(config.forge, sets)
    fresh = Journal(
        config_digest=digest,
        listing_digest=listing_digest(origins),
        ner_model=ner_model,
        pins={origin.name: origin.revision for origin in origins if origin.kind == "hub"}
        | {one.pin: one.revision for one in sets},
        evaluation=summaries(config.forge, paths.root, sets),
    )
    known = Known(forge)
    journal = go_on(forge, paths, found, fresh, known, progress.tick)
    if (paths.shards_work / "manifest.json").exists():
        return publish(paths)
    expected = text_bytes_expected(config.forge, origins)
    done = sum(counts.characters_written for counts in journal.counts)
    require_room(paths.root, disk_needed(config.forge, expected, done), "shards and tokens", free=free(paths.root))
    paths.shards_work.mkdir(parents=True, exist_ok=True)
    total = sum(file_status(file).size for origin in origins for file in origin.files)
    progress.enter(ForgePhase.READING, total)
    if not (paths.shards_work / "journal.json").exists():
        schema.save(paths.shards_work / "journal.json", journal)
    build = Build(forge, paths, origins, total, journal, known, progress, stop)
    try:
        build.read_all()
        build.finish()
    finally:
        build.close()
    return publish(paths)


class Build:
    """One pass over the sources, from where the journal stands."""

    def __init__(
        self,
        config: Forge,
        paths: RunPaths,
        origins: list[Origin],
        total: int,
        journal: Journal,
        known: Known,
        progress: Progress,
        stop: Callable[[], bool],
    ) -> None:
        self._progress, self._stop = progress, stop
        self._config, self._origins, self._work = config, origins, paths.shards_work
        self._total = total
        self._paths, self._start = paths, journal
        names = [origin.name for origin in origins]
        counts = journal.counts or [Counts() for _ in origins]
        self._counts = {name: msgspec.structs.replace(count) for name, count in zip(names, counts, strict=True)}
        for count in self._counts.values():
            progress.counted(count.documents_read, sum(count.dropped.values()))
        cursors = journal.cursors or [Cursor() for _ in origins]
        self._patience = {name: Patience(config.retry_minutes * 60) for name in names}
        self._mixes = config.phases or (ORDER,)
        self._states = [msgspec.structs.replace(state) for state in journal.phases]
        self._skipped = list(journal.skipped)
        self._repeats = known.repeats
        sources = {origin.name: origin.source for origin in origins}
        self._filters = Filters(config, sources, known.seen, paths.root, self._work, journal.filters, progress.tick)
        self._readers = {
            origin.name: Ahead(SourceReader(origin, opener_of(origin.source), cursor), self._filters, progress.tick)
            for origin, cursor in zip(origins, cursors, strict=True)
        }
        self._transforms = open_transforms(config, sources, paths.root, progress.tick)
        self._batch: list[tuple[Document, Counts]] = []
        self._batched = 0  # characters
        self._begun: deque[tuple[list[tuple[Document, Counts]], Callable[[], list[Document]]]] = deque()
        self._writer = ShardWriter(self._work, config.shard_mb * 1_000_000, journal, progress.tick)
        self._listing = (self._work / SOURCES).open("ab")
        self._bytes = journal.bytes_read
        self._unsaved, self._closed = 0, len(journal.closed)

    def close(self) -> None:
        """Let go of the files; they stay as they are."""
        for transform in self._transforms:
            transform.close()
        self._filters.close()
        self._writer.abandon()
        self._listing.close()

    def read_all(self) -> None:
        """Every phase to its end."""
        names = [origin.name for origin in self._origins]
        for number, phase in enumerate(self._mixes):
            if number == len(self._states):
                self._write_waiting()
                self._states.append(PhaseState(starts=self._writer.documents()))
            mix = Mix(phase, names, self._states[number])
            while (name := mix.next()) is not None:
                self._save_where_due()
                self._take_from(name, mix)

    def _take_from(self, name: str, mix: Mix) -> None:
        """One step of a source: a document, the end of a file, its end, or a trouble."""
        reader = self._readers[name]
        try:
            found = reader.next()
        except HubError as error:
            self._be_patient(name, mix, error)
            return
        self._patience[name].well()
        self._counts[name].given_up = ""  # in a phase before: it is well again
        if found is None:
            self._dry(reader, mix)
        elif isinstance(found, FileEnd):
            self._end_file(reader, found)
        else:
            units = self._units(mix, found, reader.origin)  # of the text that was read: a transform may be next
            if self._take(found, reader):
                mix.took(name, units)

    def _units(self, mix: Mix, document: Document, origin: Origin) -> int:
        match mix.unit:
            case "documents":
                return 1
            case "characters":
                return len(document.text)
        return max(1, round(len(document.text) / (origin.source.chars_per_token or CHARS_PER_TOKEN[document.kind])))

    def _dry(self, reader: Ahead, mix: Mix) -> None:
        name = reader.origin.name
        if mix.may_repeat(name) and self._repeats.any(name):
            mix.repeat(name)
            reader.again()
        else:
            mix.dry(name, "dry")

    def _be_patient(self, name: str, mix: Mix, error: HubError) -> None:
        wait = self._patience[name].wait_for(error, time.monotonic())
        if wait is None:
            log.error("a source was given up", source=name, why=str(error))
            self._counts[name].given_up = error.args[0]
            mix.dry(name, f"given up ({error.args[0]})")
            return
        log.warning("a source fails and is tried again", source=name, why=error.args[0], seconds=round(wait, 1))
        wait_for(wait, self._progress, self._stop)

    def _take(self, document: Document, reader: Ahead) -> bool:
        """Whether a document is kept; it then waits to be written."""
        counts = self._counts[document.source]
        counts.documents_read += 1
        self._unsaved += len(document.text)
        if self._progress.due:
            self._progress.at(self._done(reader))
        if not document.dropped:
            document.id = document_hash(document.text)
            if len(document.text) < reader.origin.source.min_chars:
                document.dropped = "too_short"
            elif reader.cursor.turn:
                document.dropped = self._repeats.reason_to_drop(document, reader.cursor.turn)
                document.split = "train"
            else:
                document.dropped = self._filters.reason_to_drop(document)
        self._progress.counted(1, int(bool(document.dropped)))
        if document.dropped:
            count_dropped(document, counts)
            return False
        self._repeats.kept(document)
        if not self._transforms:
            self._write(document, counts)
            return True
        self._batch.append((document, counts))
        self._batched += len(document.text)
        if len(self._batch) >= BATCH_DOCUMENTS or self._batched >= BATCH_CHARS:
            self._begin_batch()
            if len(self._begun) == BEGUN:
                self._write_oldest()
        return True

    def _write(self, document: Document, counts: Counts) -> None:
        self._writer.write(document.split, shard_record(document))
        counts.documents_written += 1
        counts.characters_written += len(document.text)

    def _done(self, reader: Ahead) -> int:
        """Of the bytes of all sources: those that were read, or where mixes have targets, as large a part as is done of these."""
        phases = self._config.phases
        if not (phases and all(phase.target for phase in phases)):
            return self._bytes + reader.done
        parts = (sum(state.taken.values()) / phase.target for phase, state in zip(phases, self._states, strict=False))
        return int(self._total * sum(min(1.0, part) for part in parts) / len(phases))

    def _begin_batch(self) -> None:
        """Give what was kept and waits to the transforms."""
        batch, self._batch, self._batched = self._batch, [], 0
        self._begun.append((batch, begin_all(self._transforms, [document for document, _ in batch])))

    def _write_oldest(self) -> None:
        """What the transforms were given first, into the shards."""
        batch, done = self._begun.popleft()
        for document, (before, counts) in zip(done(), batch, strict=True):
            count_masked(counts.masked, before, document)
            self._write(document, counts)
            self._progress.tick()

    def _write_waiting(self) -> None:
        """All that was kept, into the shards."""
        if self._batch:
            self._begin_batch()
        while self._begun:
            self._write_oldest()

    def _end_file(self, reader: Ahead, ended: FileEnd) -> None:
        file, counts = reader.origin.files[ended.number], self._counts[reader.origin.name]
        if reader.cursor.turn:
            return  # counted and listed the first time
        if ended.skipped:
            counts.files_skipped[ended.skipped] = counts.files_skipped.get(ended.skipped, 0) + 1
        counts.files += 1
        self._list(reader.origin, file, ended.skipped)
        self._bytes += file_status(file).size
        self._progress.at(self._done(reader))

    def _list(self, origin: Origin, file: File, skipped: str) -> None:
        size, mtime_ns, unusable = file_status(file)
        digest = file.digest if not isinstance(file, os.PathLike) else ""
        if isinstance(file, os.PathLike) and not unusable and skipped not in UNOPENED:
            digest = hashed(file, self._progress.tick)
        entry = SourceFile(origin.name, file_text(file), size, mtime_ns, digest, skipped)
        self._listing.write(msgspec.json.encode(entry) + b"\n")
        if skipped and skipped not in UNOPENED and len(self._skipped) < LISTED_SKIPS:
            self._skipped.append(entry)

    def _save_where_due(self) -> None:
        """Between two documents: journal where enough is new, or somebody asked for an end (StoppedError)."""
        stopping = self._stop()
        if stopping or self._unsaved >= JOURNAL_BYTES or len(self._writer.closed) > self._closed:
            self._write_journal()
        if stopping:
            raise StoppedError("stopped while reading sources; the next start goes on from here")

    def _write_journal(self) -> None:
        self._write_waiting()
        shards = self._writer.sync()
        journal = msgspec.structs.replace(
            self._start,
            cursors=tuple(reader.cursor for reader in self._readers.values()),
            phases=tuple(self._states),
            bytes_read=self._bytes,
            listed=self._sync_listing(),
            shards=shards,
            closed=tuple(self._writer.closed),
            counts=tuple(self._counts.values()),
            skipped=tuple(self._skipped),
            filters=self._filters.sync(),
        )
        schema.save(self._work / "journal.json", journal)
        self._unsaved, self._closed = 0, len(self._writer.closed)

    def _sync_listing(self) -> int:
        """Make `sources.jsonl` durable; its bytes."""
        self._listing.flush()
        os.fsync(self._listing.fileno())
        return self._listing.tell()

    def finish(self) -> None:
        """Close everything and write the manifest into `.work`. Raises DataError where a source or a split is empty."""
        self._write_waiting()
        files = self._writer.finish()
        for reader in self._readers.values():
            if not reader.cursor.turn:
                self._list_rest(reader)
        check_not_empty(
            self._paths, self._origins, list(self._counts.values()), {file.split for file in files}, self._config
        )
        for origin in self._origins:
            self._list_left_out(origin)
        self._sync_listing()
        found = revisions(self._work / SOURCES)
        manifest = ShardManifest(
            config_digest=self._start.config_digest,
            sources=tuple(
                summary(origin, self._counts[origin.name], found.get(origin.name, "")) for origin in self._origins
            ),
            skipped=tuple(self._skipped),
            files=files,
            val_fraction=self._config.val_fraction,
            ner_model=self._start.ner_model,
            evaluation=self._start.evaluation,
            stamp=stamp(),
            phases=phase_summaries(self._config, self._states),
        )
        # Behind every file, since it is what a restart believes; the journal beside it says whose sources it is of.
        schema.save(self._work / "manifest.json", manifest)

    def _list_rest(self, reader: Ahead) -> None:
        """Files that a full mix left unread, the one that it was in the middle of among them."""
        for number in range(reader.cursor.file, len(reader.origin.files)):
            begun = number == reader.cursor.file and (reader.cursor.record or reader.cursor.part)
            self._list(reader.origin, reader.origin.files[number], "" if begun else NOT_NEEDED)
            self._counts[reader.origin.name].files += bool(begun)

    def _list_left_out(self, origin: Origin) -> None:
        """What is in a source's folder beside its files; the manifest has the first few of each reason."""
        counts = self._counts[origin.name]
        for path, reason in origin.left_out:
            self._list(origin, path, reason)
            counts.files += 1
            counts.files_skipped[reason] = number = counts.files_skipped.get(reason, 0) + 1
            if number <= LISTED_LEFT_OUT:
                self._skipped.append(SourceFile(origin.name, file_text(path), 0, 0, "", reason))
            self._progress.tick()
