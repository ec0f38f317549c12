"""Where a forge stands, on disk: so that a killed one goes on, and ends with the very bytes of one that was not."""

import msgspec

from adam.contract.schema import Record
from adam.contract.shards import DataFile, Example, MaskSummary, SourceFile


class Counts(msgspec.Struct):
    """What came of a source so far."""

    files: int = 0
    documents_read: int = 0
    documents_written: int = 0
    characters_written: int = 0
    dropped: dict[str, int] = {}
    files_skipped: dict[str, int] = {}
    examples: dict[str, list[Example]] = {}  # reason -> the first few
    masked: MaskSummary = msgspec.field(default_factory=MaskSummary)


class OpenShard(msgspec.Struct):
    """A shard that is being written: its number, bytes and documents."""

    number: int = 0
    size: int = 0
    documents: int = 0


class Journal(Record, frozen=True, kw_only=True):
    """`shards/.work/journal.json`: everything before part `part` of record `record` of file `file` of source `source` is on disk."""

    config_digest: str
    listing_digest: str
    ner_model: str = ""
    source: int = 0
    file: int = 0
    record: int = 0
    part: int = 0
    bytes_read: int = 0  # of files that are read to their end
    listed: int = 0  # bytes of sources.jsonl
    shards: dict[str, OpenShard] = {}
    closed: tuple[DataFile, ...] = ()
    counts: tuple[Counts, ...] = ()
    skipped: tuple[SourceFile, ...] = ()
    filters: dict[str, int] = {}  # what the filters want to be told again
