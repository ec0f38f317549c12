"""Sources to shards: resumable, counted, and the same bytes however often it was killed.

files ──> documents ──> _take ──> shards/.work/*.jsonl ──> shards/.work/manifest.json ──> publish: files, manifest last
                          │                                   (durable: from here on a
                          └──> shards/.work/journal.json       restart only publishes)
                               (a restart goes on from here)
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import structlog

from adam.contract import schema
from adam.contract.clock import stamp
from adam.contract.config import Config
from adam.contract.config_forge import Forge, forge_digest
from adam.contract.durable import free_bytes, fsync_dir, replace_file, require_room, whole_lines
from adam.contract.errors import DataError, StoppedError
from adam.contract.paths import RunPaths
from adam.contract.shards import SOURCES, SPLITS, Example, ShardManifest, SourceFile, SourceSummary, hashed, path_text
from adam.contract.states import Phase
from adam.forge.documents import EXAMPLE_CHARS, Document, document_hash, shard_record, split_of
from adam.forge.filters import Filters, check_state
from adam.forge.journal import Counts, Journal
from adam.forge.parts import opener_of, parts
from adam.forge.progress import Progress
from adam.forge.readers import SkippedError
from adam.forge.secrets_in_text import redacted
from adam.forge.seen import Digests
from adam.forge.sources import Origin, documents, file_status, listing_digest, open_sources
from adam.forge.transforms import BATCH_CHARS, BATCH_DOCUMENTS, open_transforms
from adam.forge.writer import ShardWriter, cut_back, ids_in

JOURNAL_BYTES = 64_000_000  # of text, between two journals; a shard that is closed writes one too
LISTED_SKIPS = 1000
EXAMPLES = 3  # of each reason and source
# A shard is JSON, a little longer than its text; a token stands for about three bytes of it.
SHARD_PER_BYTE, BYTES_PER_TOKEN, DISK_MARGIN = 1.15, 3, 16_000_000

log = structlog.get_logger()


def token_bytes_needed(config: Forge, text_bytes: int) -> int:
    """About how many bytes the tokens of a text take."""
    width = 2 if config.tokenizer == "train" and config.vocab_size <= 1 << 16 else 4
    return text_bytes * width // BYTES_PER_TOKEN


def build_shards(
    config: Config, paths: RunPaths, progress: Progress, stop: Callable[[], bool], free: Callable[..., int] = free_bytes
) -> ShardManifest:
    """Make the shards of a run, going on where a killed forge had stopped.

    Raises DataError (a source that is missing or empty), DiskError (no room), StoppedError (somebody asked).
    """
    origins = open_sources(config.forge.sources, paths.root)
    total = sum(file_status(path).size for origin in origins for path in origin.files)
    fresh = Journal(config_digest=forge_digest(config.forge), listing_digest=listing_digest(origins))
    journal, seen = _go_on(config.forge, paths, fresh, progress.tick)
    if (paths.shards_work / "manifest.json").exists():
        return publish(paths)
    left = total - journal.bytes_read
    need = int(SHARD_PER_BYTE * left) + token_bytes_needed(config.forge, total) + DISK_MARGIN
    require_room(paths.root, need, "shards and tokens", free=free(paths.root))
    paths.shards_work.mkdir(parents=True, exist_ok=True)
    progress.enter(Phase.READING, total)
    if not (paths.shards_work / "journal.json").exists():
        schema.save(paths.shards_work / "journal.json", journal)
    build = _Build(config.forge, paths, origins, journal, seen, progress, stop)
    try:
        build.read_all()
        build.finish()
    finally:
        build.close()
    return publish(paths)


def _go_on(config: Forge, paths: RunPaths, fresh: Journal, tick: Callable[[], object]) -> tuple[Journal, Digests]:
    """(journal, hashes of the documents that it has written) of a killed forge, or fresh ones with nothing on disk."""
    work = paths.shards_work
    try:
        journal = schema.load(work / "journal.json", Journal)
        if journal is not None:
            if (journal.config_digest, journal.listing_digest) != (fresh.config_digest, fresh.listing_digest):
                raise DataError("the sources or the configuration have changed")
            if (work / "manifest.json").exists():
                return journal, Digests()
            cut_back(work, journal)
            check_state(config, paths.root, work, journal.filters)
            seen = Digests()
            for digest in ids_in(work):
                seen.add(digest)
                tick()
            log.info("going on", documents=len(seen), bytes_read=journal.bytes_read)
            return journal, seen
    except DataError as error:
        log.warning("starting again", why=str(error))
    # Files that were moved but never got their manifest go too.
    for path in list(paths.shards.glob("*.jsonl")):
        if path.name.startswith((*SPLITS, SOURCES)):
            path.unlink()
    shutil.rmtree(work, ignore_errors=True)
    return fresh, Digests()


def publish(paths: RunPaths) -> ShardManifest:
    """Move finished files out of `.work`, the manifest last. Killed in between, it is only called again."""
    work = paths.shards_work
    manifest = schema.load(work / "manifest.json", ShardManifest)
    if manifest is None:
        raise DataError(f"{work} has no manifest to publish")
    for name in [*(file.name for file in manifest.files), SOURCES]:
        if (work / name).exists():
            (work / name).replace(paths.shards / name)
    fsync_dir(paths.shards)
    replace_file(paths.shards_manifest, schema.encode(manifest))
    shutil.rmtree(work)
    return manifest


class _Build:
    """One pass over the sources, from where the journal stands."""

    def __init__(
        self,
        config: Forge,
        paths: RunPaths,
        origins: list[Origin],
        journal: Journal,
        seen: Digests,
        progress: Progress,
        stop: Callable[[], bool],
    ) -> None:
        self._progress, self._stop = progress, stop
        self._config, self._origins, self._work = config, origins, paths.shards_work
        self._paths, self._start = paths, journal
        self._counts = [msgspec.structs.replace(counts) for counts in journal.counts] or [Counts() for _ in origins]
        self._skipped = list(journal.skipped)
        self._openers = [opener_of(origin.source) for origin in origins]
        sections = {origin.name: origin.source for origin in origins}
        self._filters = Filters(config, sections, seen, paths.root, self._work, journal.filters, progress.tick)
        self._transforms = open_transforms(config)
        self._batch: list[tuple[Document, Counts]] = []
        self._batched = 0  # characters
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
        for source, number in self._positions():
            at_start = (source, number) == (self._start.source, self._start.file)
            first = (self._start.record, self._start.part) if at_start else (0, 0)
            self._save_where_due(source, number, *first)
            self._read(source, number, first)

    def _positions(self) -> Iterator[tuple[int, int]]:
        """(source, file) of all files from where the journal stands."""
        for source, origin in enumerate(self._origins):
            if source >= self._start.source:
                first = self._start.file if source == self._start.source else 0
                yield from ((source, number) for number in range(first, len(origin.files)))

    def _read(self, source: int, number: int, first: tuple[int, int]) -> None:
        """A file, from its part `first` (record, part of it) on."""
        origin, counts = self._origins[source], self._counts[source]
        path = origin.files[number]
        status, skipped, characters = file_status(path), "", 0
        try:
            for record, whole in enumerate(documents(path, origin.kind, status)):
                characters += len(whole.text)
                self._progress.at(self._bytes + min(characters, status.size))
                if record < first[0]:
                    continue
                for part, document in enumerate(parts(whole, self._openers[source])):
                    if (record, part) >= first:
                        document.source, document.path, document.record = origin.name, path_text(path), record
                        self._take(document, counts)
                        self._save_where_due(source, number, record, part + 1)
        except SkippedError as error:
            skipped = str(error)
            counts.files_skipped[skipped] = counts.files_skipped.get(skipped, 0) + 1
        counts.files += 1
        self._list(origin, path, skipped)
        self._bytes += status.size
        self._progress.at(self._bytes)

    def _list(self, origin: Origin, path: Path, skipped: str) -> None:
        size, mtime_ns, unusable = file_status(path)
        digest = "" if unusable else hashed(path, self._progress.tick)
        entry = SourceFile(origin.name, path_text(path), size, mtime_ns, digest, skipped)
        self._listing.write(msgspec.json.encode(entry) + b"\n")
        if skipped and len(self._skipped) < LISTED_SKIPS:
            self._skipped.append(entry)

    def _take(self, document: Document, counts: Counts) -> None:
        counts.documents_read += 1
        self._unsaved += len(document.text)
        if not document.dropped:
            document.id = document_hash(document.text)
            document.dropped = self._filters.reason_to_drop(document)
        if document.dropped:
            _count_dropped(document, counts)
            return
        self._batch.append((document, counts))
        self._batched += len(document.text)
        if not self._transforms or len(self._batch) >= BATCH_DOCUMENTS or self._batched >= BATCH_CHARS:
            self._write_batch()

    def _write_batch(self) -> None:
        """What was kept and waits, through the transforms into the shards."""
        batch, self._batch, self._batched = self._batch, [], 0
        done = [document for document, _ in batch]
        for transform in self._transforms:
            done = transform.apply(done)
        for document, (_, counts) in zip(done, batch, strict=True):
            self._writer.write(split_of(document, self._config.val_fraction), shard_record(document))
            counts.documents_written += 1
            counts.characters_written += len(document.text)
            self._progress.tick()

    def _save_where_due(self, source: int, file: int, record: int, part: int) -> None:
        """Between two documents: journal where enough is new, or somebody asked for an end (StoppedError)."""
        stopping = self._stop()
        if stopping or self._unsaved >= JOURNAL_BYTES or len(self._writer.closed) > self._closed:
            self._write_journal(source, file, record, part)
        if stopping:
            raise StoppedError("stopped while reading sources; the next start goes on from here")

    def _write_journal(self, source: int, file: int, record: int, part: int) -> None:
        self._write_batch()
        shards = self._writer.sync()
        journal = msgspec.structs.replace(
            self._start,
            source=source,
            file=file,
            record=record,
            part=part,
            bytes_read=self._bytes,
            listed=self._sync_listing(),
            shards=shards,
            closed=tuple(self._writer.closed),
            counts=tuple(self._counts),
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
        self._write_batch()
        files = self._writer.finish()
        self._sync_listing()
        self._check_not_empty({file.split for file in files})
        revisions = _revisions(self._work / SOURCES)
        manifest = ShardManifest(
            config_digest=self._start.config_digest,
            sources=tuple(
                _summary(origin, counts, revisions.get(origin.name, ""))
                for origin, counts in zip(self._origins, self._counts, strict=True)
            ),
            skipped=tuple(self._skipped),
            files=files,
            val_fraction=self._config.val_fraction,
            stamp=stamp(),
        )
        # Behind every file, since it is what a restart believes; the journal beside it says whose sources it is of.
        schema.save(self._work / "manifest.json", manifest)

    def _check_not_empty(self, splits: set[str]) -> None:
        for origin, counts in zip(self._origins, self._counts, strict=True):
            if counts.documents_written == 0:
                self._forget()
                reasons = ", ".join(f"{reason} {n}" for reason, n in {**counts.dropped, **counts.files_skipped}.items())
                raise DataError(f"the source {origin.path} gave no document ({reasons or 'its files are empty'})")
        for split in SPLITS:
            if split not in splits:
                todo = _how_to_fill(split, list(ids_in(self._work)))
                self._forget()
                written = sum(counts.documents_written for counts in self._counts)
                raise DataError(f"no document of {written} fell into the {split} split", todo)

    def _forget(self) -> None:
        """Leave nothing behind of shards that can't be used."""
        shutil.rmtree(self._work)
        if not any(self._paths.shards.iterdir()):
            self._paths.shards.rmdir()


def _count_dropped(document: Document, counts: Counts) -> None:
    reason = document.dropped
    counts.dropped[reason] = counts.dropped.get(reason, 0) + 1
    shown = counts.examples.setdefault(reason, [])
    if len(shown) < EXAMPLES:
        # A longer piece is looked through than is shown: a secret that is cut in two is none.
        text = redacted((document.example or document.text)[: 2 * EXAMPLE_CHARS])[:EXAMPLE_CHARS]
        shown.append(Example(document.path, text, document.record))


def _how_to_fill(split: str, ids: list[bytes]) -> str:
    """What to do about an empty split: the hashes of the documents say which share would fill it."""
    shares = sorted(int.from_bytes(digest[:8], "big") / 2**64 for digest in ids)
    enough = shares[0] + 0.01
    if split == "val" and enough < min(0.4, shares[-1]):
        return f"add documents, or raise forge.val_fraction to {enough:.2f}"
    return "add documents"


def _revisions(listing: Path) -> dict[str, str]:
    """Source -> a digest over the paths and digests of its files."""
    digests: dict[str, hashlib._Hash] = {}
    for _, line in whole_lines(listing):
        file = msgspec.json.decode(line, type=SourceFile)
        digests.setdefault(file.source, hashlib.sha256()).update(f"{file.path}\0{file.sha256}\n".encode())
    return {name: f"files-{digest.hexdigest()[:16]}" for name, digest in digests.items()}


def _summary(origin: Origin, counts: Counts, revision: str) -> SourceSummary:
    return SourceSummary(
        name=origin.name,
        kind=origin.kind,
        path=origin.path,
        revision=origin.path if origin.kind == "stdlib" else revision,
        licence=origin.licence,
        files=counts.files,
        documents_read=counts.documents_read,
        documents_written=counts.documents_written,
        characters_written=counts.characters_written,
        dropped=counts.dropped,
        files_skipped=counts.files_skipped,
        examples=counts.examples,
    )
