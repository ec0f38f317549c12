"""Checkpoints on disk: their manifest, their verification, and the list of them. No torch.

    checkpoints/step-00001200-a03/   rank-00000.safetensors   state.json   MANIFEST.json (written last)

A directory without a manifest is not a checkpoint. The manifest has a digest of itself, so that every bit counts.
"""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import msgspec

from adam.contract.clock import Stamp
from adam.contract.durable import sha256_file
from adam.contract.errors import CheckpointError, DataError
from adam.contract.schema import Record, decode, encode
from adam.contract.slots import SlotHead

MANIFEST = "MANIFEST.json"
STATE = "state.json"
SEAL = re.compile(rb'"self_sha256": "([0-9a-f]{64})"')
NAME = re.compile(r"step-(\d{8,})-a(\d{2,})")


class FileEntry(msgspec.Struct, frozen=True):
    name: str
    size: int
    sha256: str


class Manifest(Record, frozen=True, kw_only=True):
    """What a checkpoint is: written last, by the keeper."""

    run: str
    step: int
    attempt: int
    token: int
    tokens: int
    samples: int  # data position: the first sample that is not yet trained on
    parent: str  # lineage: the checkpoint that its attempt started from; empty: none
    why: str
    fingerprint: str
    config_digest: str
    stamp: Stamp
    files: tuple[FileEntry, ...]
    self_sha256: str = ""  # of this manifest, encoded with this field empty


def rank_file(rank: int) -> str:
    return f"rank-{rank:05d}.safetensors"


def checkpoint_name(step: int, attempt: int) -> str:
    """The attempt is in the name, so that training again after a rollback never collides."""
    return f"step-{step:08d}-a{attempt:02d}"


def parse_name(name: str) -> tuple[int, int] | None:
    """(step, attempt) of a checkpoint's name; None where it is none."""
    match = NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def manifest_of(head: SlotHead, files: tuple[FileEntry, ...], stamp: Stamp) -> Manifest:
    """The manifest of a snapshot whose files are on disk."""
    return Manifest(
        run=head.run,
        step=head.step,
        attempt=head.attempt,
        token=head.token,
        tokens=head.tokens,
        samples=head.samples,
        parent=head.parent,
        why=head.why,
        fingerprint=head.fingerprint,
        config_digest=head.config_digest,
        stamp=stamp,
        files=files,
    )


def seal(manifest: Manifest) -> bytes:
    """The manifest's bytes, its own digest filled in: that of the same bytes with an empty digest."""
    blank = msgspec.structs.replace(manifest, self_sha256="")
    return encode(msgspec.structs.replace(blank, self_sha256=hashlib.sha256(encode(blank)).hexdigest()))


def is_sealed(data: bytes) -> bool:
    """True where a manifest's bytes, of this schema or any other, are those that were sealed."""
    found = SEAL.search(data)
    return (
        found is not None
        and hashlib.sha256(data[: found.start(1)] + data[found.end(1) :]).hexdigest() == found[1].decode()
    )


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a checkpoint, checked against its own digest.

    Raises CheckpointError (missing, torn, changed), SchemaError (written by a newer Adam).
    """
    path = directory / MANIFEST
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{directory} has no {MANIFEST}: it was never completed") from None
    # Before anything in it is believed, its schema number included.
    if not is_sealed(data):
        raise CheckpointError(f"{path} was changed after it was written")
    try:
        return decode(data, Manifest, str(path))
    except DataError as error:
        raise CheckpointError(str(error)) from None


def verify(directory: Path, told: Callable[[int], None] = lambda _: None) -> Manifest:
    """Check every byte of a checkpoint. Raises CheckpointError naming the first file that is wrong, SchemaError.

    `told` hears of each so many bytes that were read, for a bar.
    """
    manifest = read_manifest(directory)
    if not manifest.files:
        raise CheckpointError(f"{directory / MANIFEST} lists no files")
    for entry in manifest.files:
        path = directory / entry.name
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise CheckpointError(f"{path} is missing") from None
        if size != entry.size:
            raise CheckpointError(f"{path} has {size} bytes, the manifest says {entry.size}")
        if sha256_file(path, told) != entry.sha256:
            raise CheckpointError(f"{path} has other bytes than the manifest says (SHA-256 differs)")
    return manifest


def list_checkpoints(checkpoints: Path) -> list[Path]:
    """The directories that have a checkpoint's name and a manifest, newest last: by step, then by attempt."""
    if not checkpoints.is_dir():
        return []
    found = [
        (parsed, path)
        for path in checkpoints.iterdir()
        if (parsed := parse_name(path.name)) and (path / MANIFEST).exists()
    ]
    return [path for _, path in sorted(found)]
