"""Where a forge stands, on disk: so that a killed one goes on, and ends with the very bytes of one that was not."""

import msgspec

from adam.contract.schema import Record
from adam.contract.shards import DataFile, Example, MaskSummary, SourceFile
from adam.forge.mix import PhaseState


class Counts(msgspec.Struct):
    """What came of a source so far."""

    files: int = 0
    documents_read: int = 0
    documents_written: int = 0
    characters_written: int = 0
    dropped: dict[str, int] = {}
    files_skipped: dict[str, int] = {}
    examples: dict[str, list[Example]] = {}  # reason -> the first few
    given_up: str = ""  # why the source was given up; empty: it was not
    masked: MaskSummary = msgspec.field(default_factory=MaskSummary)


class Cursor(msgspec.Struct):
    """A place in a source: everything before part `part` of record `record` of file `file` was taken, in its time number `turn`."""

    file: int = 0
    record: int = 0
    part: int = 0
    turn: int = 0


class OpenShard(msgspec.Struct):
    """A shard that is being written: its number, bytes and documents."""

    number: int = 0
    size: int = 0
    documents: int = 0


class Journal(Record, frozen=True, kw_only=True):
    """`shards/.work/journal.json`: what came from before the cursors is on disk, and nothing else."""

    config_digest: str
    listing_digest: str
    ner_model: str = ""
    pins: dict[str, str] = {}  # source -> its commit on the Hub
    evaluation: tuple[str, ...] = ()  # what documents are compared with, for the ledger
    cursors: tuple[Cursor, ...] = ()
    phases: tuple[PhaseState, ...] = ()  # the last one is the present one
    bytes_read: int = 0  # of files that are read to their end
    listed: int = 0  # bytes of sources.jsonl
    shards: dict[str, OpenShard] = {}
    closed: tuple[DataFile, ...] = ()
    counts: tuple[Counts, ...] = ()
    skipped: tuple[SourceFile, ...] = ()
    filters: dict[str, int] = {}  # what the filters want to be told again
