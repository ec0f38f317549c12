"""The forge's output: manifests of `shards/` and `tokens/`, their verification, and whether the sources have changed since.

shards/train-00000.jsonl …  val-00000.jsonl …  sources.jsonl   manifest.json (written last)
tokens/train.bin  train.docs  val.bin  val.docs  tokenizer.json  manifest.json (written last)
       train.spans  val.spans (where prompts are known)
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

import msgspec

from adam.contract.clock import Stamp
from adam.contract.durable import COPY_BLOCK, sha256_file, whole_lines
from adam.contract.errors import DataError
from adam.contract.paths import RunPaths
from adam.contract.schema import Record, load

SPLITS = ("train", "val")
SOURCES = "sources.jsonl"
QUOTED = "file://"
REMOTE = "hf://"
NOT_NEEDED = "not_needed"  # why a file was never opened: the mix was full
# … or that it is none that a reader takes. A folder that was left out is one entry.
LEFT_OUT = frozenset({"unknown_ending", "hidden", "link_to_folder", "folder_left_out", "not_selected"})
UNOPENED = LEFT_OUT | {NOT_NEEDED}


class DataFile(msgspec.Struct, frozen=True):
    """A file of the forge; `name` is relative to the manifest's directory."""

    name: str
    size: int
    sha256: str
    split: str = ""
    documents: int = 0


class SourceFile(msgspec.Struct, frozen=True):
    """A file that was listed: a line of `sources.jsonl`. `path` as `path_text` writes it.

    `skipped` says why it gave no document (empty: it was read). What could not be opened has size, time and digest 0, 0, "".
    """

    source: str
    path: str
    size: int
    mtime_ns: int
    sha256: str
    skipped: str = ""


class Example(msgspec.Struct, frozen=True):
    """The beginning of a document that was dropped, or what in it was the reason, for people to look at."""

    path: str
    text: str
    record: int = 0  # its number in the file, from 0


class MaskExample(msgspec.Struct, frozen=True):
    """A piece of a document around its first mask, for people to look at."""

    path: str
    before: str
    after: str


class MaskSummary(msgspec.Struct):
    """What masking made of a source's prose. Code and sources that are not masked are in none of these."""

    documents: dict[
        str, int
    ] = {}  # skeleton, trajectory, plain, nothing_found (no entity to mask), failed -> documents
    entities: dict[str, int] = {}  # label -> placeholders that were written
    examples: dict[str, list[MaskExample]] = {}  # skeleton, trajectory -> the first few


class SourceSummary(msgspec.Struct, frozen=True):
    """What came of a source. read = written + the sum of `dropped`; files that were skipped are counted apart."""

    name: str
    kind: str
    path: str
    revision: str  # what pins it: a version, or a digest over its files
    licence: str
    files: int  # that were found; those of `files_skipped` among them
    documents_read: int
    documents_written: int
    characters_written: int
    dropped: dict[str, int]  # reason -> documents
    files_skipped: dict[str, int]  # reason -> files
    examples: dict[str, list[Example]] = {}  # reason -> the first few documents that were dropped for it
    config: str = ""  # of a set of the Hub, and its split
    split: str = ""
    template: str = ""  # by which its columns became text
    given_up: str = ""  # why the rest of it was not read; empty: nothing went wrong
    notes: tuple[str, ...] = ()  # what people should know: another set was taken in its place
    masked: MaskSummary = msgspec.field(default_factory=MaskSummary)


class PhaseSummary(msgspec.Struct, frozen=True):
    """A mix as it came out. `starts`: split -> the number of its first document; `taken`: source -> what it gave, in `unit`."""

    name: str
    unit: str
    target: int
    when_dry: str
    shares: dict[str, float]
    taken: dict[str, int]
    starts: dict[str, int]
    ended: str  # target, dry (all of its sources were), or whose end was the end
    notes: tuple[str, ...]  # what ran dry or was given up, and when


class ShardManifest(Record, frozen=True, kw_only=True):
    """`shards/manifest.json` (writer: forge)."""

    config_digest: str  # of the configuration's [forge] that shards depend on
    sources: tuple[SourceSummary, ...]
    skipped: tuple[
        SourceFile, ...
    ]  # files that could not be used, the first thousand, and of each source the first few left out
    files: tuple[DataFile, ...]
    val_fraction: float
    ner_model: str = ""  # whose entities were masked; empty: nothing was
    stamp: Stamp
    phases: tuple[PhaseSummary, ...] = ()
    evaluation: tuple[str, ...] = ()  # sets that no document shares a run of words with, and what pins them


class TokenSplit(msgspec.Struct, frozen=True):
    """`tokens`: uint16 or uint32, little endian. `starts`: uint64 offsets of the documents' first tokens.

    Each document is its mark (`end_of_text`) and then its tokens; one more mark ends the file, outside every document.
    `prompts`: uint64 pairs [first, end) of positions in `tokens`, in order and apart: tokens that lie wholly in a prompt, whose
    loss training may leave out. None where no document has any.
    """

    tokens: DataFile
    starts: DataFile
    dtype: str
    count: int
    documents: int
    text_bytes: int
    prompts: DataFile | None = None
    prompt_tokens: int = 0


class TokenPhase(msgspec.Struct, frozen=True):
    """A mix in the train tokens. `first`: the position of its first document's mark; of the mark at the end where it has none."""

    name: str
    first: int


class TokensManifest(Record, frozen=True, kw_only=True):
    """`tokens/manifest.json` (writer: forge)."""

    shards_sha256: str  # of shards/manifest.json
    tokenizer: DataFile
    tokenizer_origin: str  # trained, a path, or a Hub name with its revision
    vocab_size: int
    end_of_text: int  # the id of the mark before each document
    marks: dict[str, int] = {}  # what masks and trajectories write -> its id
    encoder: str = ""  # which library gave the ids, with its version
    token_bytes: DataFile  # uint16 per id: the bytes of text it stands for
    splits: dict[str, TokenSplit]
    phases: tuple[TokenPhase, ...] = ()  # in order; empty: there are none, or an older Adam did not write them
    order2_bits_per_byte: float  # of an order-2 byte model counted on train, over val: a floor for any model
    stamp: Stamp


def load_shards(paths: RunPaths) -> ShardManifest | None:
    """The shards' manifest, None where the shards are not (yet) complete."""
    return load(paths.shards_manifest, ShardManifest)


def load_tokens(paths: RunPaths) -> TokensManifest | None:
    """The tokens' manifest, None where the tokens are not (yet) complete."""
    return load(paths.tokens_manifest, TokensManifest)


def data_ready(paths: RunPaths) -> bool:
    """True where training can start: both manifests are there and belong together. Reads no data."""
    tokens = load_tokens(paths)
    return (
        tokens is not None
        and paths.shards_manifest.exists()
        and sha256_file(paths.shards_manifest) == tokens.shards_sha256
    )


def path_text(path: Path) -> str:
    """A path as text; one that is not UTF-8 (Linux allows any bytes) as `file://` with its bytes percent-quoted."""
    data = os.fsencode(path)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return QUOTED + quote_from_bytes(data)


def text_path(text: str) -> Path:
    """The path that `path_text` wrote."""
    return Path(os.fsdecode(unquote_to_bytes(text.removeprefix(QUOTED))) if text.startswith(QUOTED) else text)


def hashed(path: Path, tick: Callable[[], object] = lambda: None) -> str:
    """The SHA-256 of a file's bytes, in hex; `tick` is called every megabyte, so that a long hash is no silence."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(COPY_BLOCK):
            digest.update(block)
            tick()
    return digest.hexdigest()


def check_files(
    directory: Path, files: tuple[DataFile, ...], *, digests: bool, tick: Callable[[], object] = lambda: None
) -> None:
    """Raise DataError naming the first file that is missing, has another size or (where `digests`) other bytes."""
    todo = "build the data again with `adamctl forge --rebuild`"
    for entry in files:
        path = directory / entry.name
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise DataError(f"{path} is missing", todo) from None
        if size != entry.size:
            raise DataError(f"{path} has {size} bytes, its manifest says {entry.size}", todo)
        if digests and hashed(path, tick) != entry.sha256:
            raise DataError(f"{path} has other bytes than its manifest says", todo)


def token_files(manifest: TokensManifest) -> tuple[DataFile, ...]:
    """Every file of `tokens/`."""
    splits = [file for split in manifest.splits.values() for file in (split.tokens, split.starts, split.prompts)]
    return (manifest.tokenizer, manifest.token_bytes, *(file for file in splits if file is not None))


def changed_sources(paths: RunPaths) -> Iterator[str]:
    """Lines that name what has changed in the sources since the shards were made: files gone, or with other bytes.

    Reads only those files whose size or time of change differs. New files are seen by the forge, which lists the sources.
    """
    for _, line in whole_lines(paths.shards / SOURCES):
        known = msgspec.json.decode(line, type=SourceFile)
        if known.path.startswith(REMOTE) or known.skipped in UNOPENED:
            continue  # pinned to a commit; never read
        path = text_path(known.path)
        try:
            status = path.stat()
            readable = stat.S_ISREG(status.st_mode)
            same = (status.st_size, status.st_mtime_ns) == (known.size, known.mtime_ns) or (
                readable and hashed(path) == known.sha256
            )
        except OSError:
            readable = same = False
        if not readable and known.sha256:
            yield f"{known.source}: {known.path} is gone"
        elif readable and not same:
            yield f"{known.source}: {known.path} has changed"
