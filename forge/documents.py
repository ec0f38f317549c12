"""The record that flows from the readers to the shards. Every stage takes and gives these.

reader ──> parts (books, pieces) ──> filters ──> transforms ──> writer
           one to many               drop        one to one     ShardRecord
"""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

EXAMPLE_CHARS = 200  # of a dropped document that are kept for people to look at


class Span(msgspec.Struct, frozen=True, array_like=True):
    """Characters [start, end) of a document's text and what they are: `prompt` or `answer`."""

    start: int
    end: int
    role: str


class Mask(msgspec.Struct, frozen=True, array_like=True):
    """Characters [start, end) of a document's text stand for `original`: put back, last first, they give the text that was read."""

    start: int
    end: int
    label: str
    original: str


class Verdict(NamedTuple):
    """What the filters say of a document by itself.

    Attributes:
        reason: why it is dropped, as it is counted; empty: nothing speaks against it.
        example: what shows it; empty: the beginning of its text.
        signature: of its words (`near.signatures_of`, uint8); empty: nobody asks for near duplicates, or it has too few words.
        bands: of that (`near.bands_of`, uint64, little endian).
    """

    reason: str = ""
    example: str = ""
    signature: bytes = b""
    bands: bytes = b""


class Document(msgspec.Struct):
    """A text on its way, and all that is known of it.

    Attributes:
        text: with \\n as line end; empty where `dropped` says that there is none.
        source, path, record: whose it is, and which of the file's; the build fills them in.
        kind: prose or code; code is never masked and never cut.
        group: what decides its split together with others of the same group (a book); empty: its own text does.
        meta: title, author, url, … that are kept with it.
        spans: in order, without overlap; empty: nothing is known of prompts and answers.
        masks: in order, without overlap.
        dropped: why it is no document of the corpus, as it is counted; empty: it is one.
        example: what of it is shown to people where it was dropped; empty: the beginning of `text`.
        form: what masking made of it (`contract.shards.MaskSummary`); empty: it is not masked.
        long: prose that is cut into pieces where it is longer than one.
        verdict: what the filters said of it by itself; None: they were not asked yet.
        id: `document_hash` of the text as it was read: it knows duplicates and decides the split. The build fills it in.
        split: train or val; the filters fill it in where they keep it.
    """

    text: str
    source: str = ""
    path: str = ""
    record: int = 0
    kind: str = "prose"
    group: str = ""
    meta: dict[str, str] = {}
    spans: tuple[Span, ...] = ()
    masks: tuple[Mask, ...] = ()
    dropped: str = ""
    example: str = ""
    form: str = ""
    long: bool = False
    verdict: Verdict | None = None
    id: bytes = b""
    split: str = ""


class ShardRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of a shard. What is at its default is not in the line."""

    text: str
    id: str
    source: str
    path: str
    group: str = ""
    meta: Mapping[str, str] = {}
    spans: tuple[Span, ...] = ()
    masks: tuple[Mask, ...] = ()


def kind_of(text: str) -> str:
    """The kind of a source's documents by its key `text`: books are prose."""
    return "code" if text == "code" else "prose"


def document_hash(text: str) -> bytes:
    """16 bytes that tell a text from any other."""
    return hashlib.sha256(text.encode()).digest()[:16]


def split_of(document: Document, val_fraction: float) -> str:
    """By the hash of its text, or of its group: equal texts can't be on both sides, and a new document moves no other."""
    digest = document_hash(document.group) if document.group else document.id
    return "val" if int.from_bytes(digest[:8], "big") < val_fraction * 2**64 else "train"


def shard_record(document: Document) -> ShardRecord:
    return ShardRecord(
        document.text,
        document.id.hex(),
        document.source,
        document.path,
        document.group,
        document.meta,
        document.spans,
        document.masks,
    )
