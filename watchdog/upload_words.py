"""What watchdog, uploader and its jobs say to one another: lines of JSON. And the uploader's journal."""

from typing import Any

import msgspec

from adam.contract.clock import Stamp
from adam.contract.records import UploadSeen
from adam.contract.schema import Record


class Newest(msgspec.Struct, frozen=True):
    """Watchdog to uploader: the newest checkpoint that the keeper has verified. `final`: none will follow, the run waits."""

    checkpoint: str
    final: bool = False


class Event(msgspec.Struct, frozen=True):
    """Uploader to watchdog, for `events.jsonl`."""

    kind: str
    text: str
    facts: dict[str, Any] = {}


class Report(msgspec.Struct, frozen=True):
    """Uploader to watchdog. `settled`: the checkpoint that nothing is left to be done for, or can be."""

    seen: UploadSeen
    note: str = ""
    settled: str = ""
    event: Event | None = None


class Task(msgspec.Struct, frozen=True):
    """One upload: of the weights of a checkpoint, of all of it, or both."""

    checkpoint: str
    weights: bool
    state: bool


class Trouble(msgspec.Struct, frozen=True):
    """Why an upload came to nothing. `status`: the answer of the Hub, 0 where it was none."""

    text: str
    status: int = 0
    retry_after: float = 0.0  # seconds that the Hub asked for


class Outcome(msgspec.Struct, frozen=True):
    """Job to uploader: what has arrived and was read back, or why it has not."""

    size: int = 0  # bytes that were sent
    seconds: float = 0.0
    note: str = ""
    trouble: Trouble | None = None


class Sent(msgspec.Struct, frozen=True):
    checkpoint: str
    stamp: Stamp


class Failure(msgspec.Struct, frozen=True):
    """The last trouble, until something has arrived. `key` marks the configuration and the token that it was with."""

    text: str
    permanent: bool
    count: int  # in a row
    wait_s: float
    stamp: Stamp
    key: str
    status: int = 0  # as in Trouble
    alike: int = 1  # in a row, with that status


class Journal(Record, frozen=True, kw_only=True):
    """`outbox/journal.json` (writer: uploader): what outlives it."""

    where: str = ""
    weights: Sent | None = None
    state: Sent | None = None
    tried: Stamp | None = None
    failure: Failure | None = None
