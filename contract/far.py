"""The far place, where a run's weights and whole states are uploaded to: its layout, and what can be done with it.

    adam.json                              which checkpoint is there, with size and SHA-256 of every file; replaced last
    README.md config.json model.safetensors     the weights
    state/step-00001200-a03/               the checkpoint's files as they are, and the run's adam.toml and config.lock.toml
    data/shards/ data/tokens/              the data that it goes on with

A place is `hf://USER/REPO` (`far_hub`) or any directory that fsspec knows (`far_files`).
"""

from pathlib import Path
from typing import Protocol

import msgspec

from adam.contract.checkpoints import FileEntry
from adam.contract.clock import Stamp
from adam.contract.config import REPO, Upload
from adam.contract.errors import UsageError
from adam.contract.schema import Record

FAR_MANIFEST = "adam.json"
WEIGHTS = "model.safetensors"
STATE, DATA = "state/", "data/"
SHARDS, TOKENS = f"{DATA}shards/", f"{DATA}tokens/"
HUB = "hf://"
FETCHING = ".fetching"


class FarPart(msgspec.Struct, frozen=True):
    """What is there of a checkpoint. `seal`: the digest of its manifest."""

    checkpoint: str
    step: int
    seal: str
    files: tuple[FileEntry, ...]  # named as in the far place


class FarManifest(Record, frozen=True, kw_only=True):
    """`adam.json` (writer: the uploader)."""

    name: str  # of the run
    weights: FarPart | None = None
    state: FarPart | None = None
    data: tuple[FileEntry, ...] = ()
    stamp: Stamp

    @property
    def files(self) -> tuple[FileEntry, ...]:
        parts = [part.files for part in (self.weights, self.state) if part is not None]
        return tuple(entry for files in (*parts, self.data) for entry in files)


class Far(Protocol):
    """A far place. Every method may raise `errors`."""

    where: str
    errors: tuple[type[Exception], ...]  # that its methods may raise

    def manifest(self) -> FarManifest | None:
        """What is there now; None where nothing is. The methods below mean the place as it was then."""

    def fetch(self, name: str, target: Path) -> None:
        """Write the file `name` to `target`, whose directory is there. What is half fetched is kept in FETCHING beside it."""

    def push(self, files: dict[str, Path | bytes], manifest: FarManifest, message: str) -> None:
        """Put `files` there, then the manifest, and take away the states that it does not name: all of it, or nothing that counts."""

    def wrong(self, entries: tuple[FileEntry, ...]) -> list[str]:
        """The names of those that are not there, now, or not with these bytes."""

    def forget(self, manifest: FarManifest) -> None:
        """Free the storage of what is not in `manifest`."""


def where_of(upload: Upload) -> str:
    """The URL of the place that a configuration means."""
    return f"{HUB}{upload.repo}" if upload.repo else upload.target


def open_far(url: str, token: str | None, *, private: bool = True) -> Far:
    """The place at `url`. Raises UsageError for what is none."""
    if url.startswith(HUB):
        repo = url.removeprefix(HUB).removeprefix("models/").strip("/")
        if not REPO.fullmatch(repo):
            raise UsageError(f"{url} is no repository", "write it as hf://USER/REPO")
        from adam.contract.far_hub import HubFar

        return HubFar(repo, token, private=private)
    if "://" not in url:
        raise UsageError(f"{url} is no URL", "write hf://USER/REPO, file:///DIR or s3://BUCKET/DIR")
    from adam.contract.far_files import FilesFar

    return FilesFar(url)


def is_inside(name: str) -> bool:
    """True where a name in a manifest means a file below the place, and nothing outside of it."""
    parts = name.split("/")
    return bool(name) and "\0" not in name and not any(part in ("", ".", "..") for part in parts)
