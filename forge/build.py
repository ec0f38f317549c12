"""Sources to shards: resumable, counted, and the same bytes however often it was killed."""

import shutil
from collections.abc import Callable, Iterator

import msgspec
import structlog

from adam.contract import schema
from adam.contract.clock import stamp
from adam.contract.config import Config
from adam.contract.config_file import config_digest
from adam.contract.durable import free_bytes, fsync_dir, replace_file, require_room, sha256_file
from adam.contract.errors import DataError, StoppedError
from adam.contract.paths import RunPaths
from adam.contract.shards import SOURCES, ShardManifest, SourceFile, SourceSummary
from adam.contract.states import Phase
from adam.forge.filters import Filters, document_hash, split_of
from adam.forge.journal import Counts, Journal
from adam.forge.progress import Progress
from adam.forge.readers import SkippedError
from adam.forge.sources import Document, Origin, documents, listing_digest, open_source
from adam.forge.writer import ShardRecord, ShardWriter, ids_in

JOURNAL_BYTES = 64_000_000  # of sources, between two journals
LISTED_SKIPS = 1000
STOPPED = "stopped while reading sources; the next start goes on from here"
# Shards are JSON (escapes), tokens two or four bytes for about three of text.
DISK_PER_BYTE, DISK_MARGIN = 2.0, 32_000_000

log = structlog.get_logger()


def open_sources(config: Config, paths: RunPaths) -> list[Origin]:
    """All sources with their files. Raises DataError naming the first that is missing or has no text file."""
    return [open_source(source, paths.root) for source in config.forge.sources]


def build_shards(
    config: Config, paths: RunPaths, progress: Progress, stop: Callable[[], bool], free: Callable[..., int] = free_bytes
) -> ShardManifest:
    """Make the shards of a run, going on where a killed forge had stopped.

    Raises DataError (a source that is missing or empty), DiskError (no room), StoppedError (somebody asked).
    """
    origins = open_sources(config, paths)
    total = sum(path.stat().st_size for origin in origins for path in origin.files)
    fresh = Journal(config_digest=config_digest(config.forge), listing_digest=listing_digest(origins))
    journal = _journal_to_go_on_from(paths, fresh)
    need = int(DISK_PER_BYTE * (total - journal.bytes_read)) + DISK_MARGIN
    require_room(paths.root, need, "shards and tokens", free=free(paths.root))
    paths.shards_work.mkdir(parents=True, exist_ok=True)
    progress.enter(Phase.READING, total)
    return _Build(config, paths, origins, journal, progress, stop).run()


def _journal_to_go_on_from(paths: RunPaths, fresh: Journal) -> Journal:
    journal = schema.load(paths.shards_work / "journal.json", Journal)
    if journal is not None:
        if (journal.config_digest, journal.listing_digest) == (fresh.config_digest, fresh.listing_digest):
            log.info("going on", bytes_read=journal.bytes_read)
            return journal
        log.info("starting again: the sources or the configuration have changed")
    shutil.rmtree(paths.shards_work, ignore_errors=True)
    return fresh


class _Build:
    def __init__(
        self,
        config: Config,
        paths: RunPaths,
        origins: list[Origin],
        journal: Journal,
        progress: Progress,
        stop: Callable[[], bool],
    ) -> None:
        self._progress, self._stop = progress, stop
        self._config, self._origins, self._work = config.forge, origins, paths.shards_work
        self._paths, self._start = paths, journal
        self._counts = [msgspec.structs.replace(counts) for counts in journal.counts] or [Counts() for _ in origins]
        self._skipped = list(journal.skipped)
        self._filters = Filters(config.forge)
        self._writer = ShardWriter(self._work, config.forge.shard_mb * 1_000_000, journal.shards, journal.closed)
        # Behind the cut: what is left in the shards is what the journal knows.
        self._filters.seen.update(ids_in(self._work))
        self._listing = (self._work / SOURCES).open("ab")
        self._listing.truncate(journal.listed)
        self._bytes = self._journalled = journal.bytes_read

    def run(self) -> ShardManifest:
        try:
            self._read_all()
            return self._finish()
        finally:
            self._listing.close()

    def _read_all(self) -> None:
        for source, number in self._positions():
            if self._stop():
                self._write_journal(source, number)
                raise StoppedError(STOPPED)
            self._read(source, self._origins[source], number)
            if self._bytes - self._journalled >= JOURNAL_BYTES:
                self._write_journal(source, number + 1)

    def _positions(self) -> Iterator[tuple[int, int]]:
        """(source, file) of all files from where the journal stands."""
        for source, origin in enumerate(self._origins):
            if source >= self._start.source:
                first = self._start.file if source == self._start.source else 0
                yield from ((source, number) for number in range(first, len(origin.files)))

    def _read(self, source: int, origin: Origin, number: int) -> None:
        path, counts = origin.files[number], self._counts[source]
        status = path.stat()
        counts.files += 1
        try:
            taken = 0
            for document in documents(path, origin.kind):
                if taken and self._stop():
                    raise StoppedError(
                        STOPPED
                    )  # within a large file: the journal stands before it, and it is read again
                self._take(document, origin, str(path), counts)
                taken += len(document.text or "")
                self._progress.at(self._bytes + min(taken, status.st_size))
            skipped = ""
        except SkippedError as error:
            skipped = str(error)
            counts.files_skipped[skipped] = counts.files_skipped.get(skipped, 0) + 1
        entry = SourceFile(origin.name, str(path), status.st_size, status.st_mtime_ns, sha256_file(path), skipped)
        self._listing.write(msgspec.json.encode(entry) + b"\n")
        if skipped and len(self._skipped) < LISTED_SKIPS:
            self._skipped.append(entry)
        self._bytes += status.st_size

    def _take(self, document: Document, origin: Origin, path: str, counts: Counts) -> None:
        counts.documents_read += 1
        text, reason = document.text, document.dropped
        if text is not None:
            digest = document_hash(text)
            reason = self._filters.reason_to_drop(text, digest)
            if not reason:
                split = split_of(digest, self._config.val_fraction)
                self._writer.write(split, ShardRecord(text, digest.hex(), origin.name, path))
                counts.documents_written += 1
                counts.characters_written += len(text)
                return
        counts.dropped[reason] = counts.dropped.get(reason, 0) + 1

    def _write_journal(self, source: int, file: int) -> None:
        self._listing.flush()
        shards = self._writer.sync()
        journal = msgspec.structs.replace(
            self._start,
            source=source,
            file=file,
            bytes_read=self._bytes,
            listed=self._listing.tell(),
            shards=shards,
            closed=tuple(self._writer.closed),
            counts=tuple(self._counts),
            skipped=tuple(self._skipped),
        )
        schema.save(self._work / "journal.json", journal)
        self._journalled = self._bytes

    def _finish(self) -> ShardManifest:
        self._listing.close()
        files = self._writer.finish()
        self._check_not_empty(files)
        summaries = tuple(map(self._summary, self._origins, self._counts))
        manifest = ShardManifest(
            config_digest=self._start.config_digest,
            sources=summaries,
            skipped=tuple(self._skipped),
            files=files,
            val_fraction=self._config.val_fraction,
            stamp=stamp(),
        )
        for name in [file.name for file in files] + [SOURCES]:
            (self._work / name).replace(self._paths.shards / name)
        fsync_dir(self._paths.shards)
        replace_file(self._paths.shards_manifest, schema.encode(manifest))
        shutil.rmtree(self._work)
        return manifest

    def _check_not_empty(self, files: tuple[object, ...]) -> None:
        for origin, counts in zip(self._origins, self._counts, strict=True):
            if counts.documents_written == 0:
                self._forget()
                reasons = ", ".join(f"{reason} {n}" for reason, n in {**counts.dropped, **counts.files_skipped}.items())
                raise DataError(f"the source {origin.path} gave no document ({reasons or 'its files are empty'})")
        splits = {getattr(file, "split", "") for file in files}
        for split in ("train", "val"):
            if split not in splits:
                self._forget()
                written = sum(counts.documents_written for counts in self._counts)
                raise DataError(
                    f"no document of {written} fell into the {split} split",
                    "add documents, or raise forge.val_fraction",
                )

    def _forget(self) -> None:
        """Leave nothing behind of shards that can't be used."""
        shutil.rmtree(self._work)

    def _summary(self, origin: Origin, counts: Counts) -> SourceSummary:
        return SourceSummary(
            name=origin.name,
            kind=origin.kind,
            path=origin.path,
            revision=origin.path if origin.kind == "stdlib" else f"files-{self._start.listing_digest[:16]}",
            licence=origin.licence,
            files=counts.files,
            documents_read=counts.documents_read,
            documents_written=counts.documents_written,
            characters_written=counts.characters_written,
            dropped=counts.dropped,
            files_skipped=counts.files_skipped,
        )
