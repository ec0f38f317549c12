"""A far place in a model repository of the Hugging Face Hub. One push is one commit, whatever is in it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils._http import default_client_factory, set_client_factory
from huggingface_hub.utils.tqdm import disable_progress_bars

from adam.contract.checkpoints import FileEntry
from adam.contract.durable import sha256_file
from adam.contract.far import DATA, FAR_MANIFEST, FETCHING, HUB, STATE, WEIGHTS, FarManifest
from adam.contract.schema import decode, encode

ASKED_AT_ONCE = 500
SILENT_S = 300.0  # without a byte; a large commit may take minutes to be answered


class HubFar:
    """Args: `private`: of a repository that `push` makes."""

    errors: tuple[type[Exception], ...] = (OSError, httpx2.HTTPError)

    def __init__(self, repo: str, token: str | None, *, private: bool) -> None:
        self.where = HUB + repo
        self._repo, self._private = repo, private
        # False: never fall back to a token of its own choice, so that there is one rule for which is used.
        self._hub = HfApi(token=token or False)
        self._head: str | None = None  # the commit that `manifest` saw; None: no repository
        self._names: set[str] = set()
        disable_progress_bars()
        set_client_factory(client_that_gives_up)

    def manifest(self) -> FarManifest | None:
        self._head, self._names = None, set()
        try:
            info = self._hub.model_info(self._repo)
        except RepositoryNotFoundError as error:
            if error.response.status_code != 404:
                raise
            return None
        self._head = info.sha
        self._names = {sibling.rfilename for sibling in info.siblings or ()}
        if FAR_MANIFEST not in self._names:
            return None
        with tempfile.TemporaryDirectory(prefix="adam-far-") as place:
            self.fetch(FAR_MANIFEST, Path(place) / FAR_MANIFEST)
            return decode((Path(place) / FAR_MANIFEST).read_bytes(), FarManifest, f"{self.where}/{FAR_MANIFEST}")

    def names(self) -> set[str]:
        """All files of the repository, whoever put them there."""
        info = self._hub.model_info(self._repo)
        self._head = info.sha
        return {sibling.rfilename for sibling in info.siblings or ()}

    def entries(self, names: list[str]) -> list[FileEntry]:
        """Sizes and digests of those that are there; small files have no digest (empty)."""
        asked = tuple(FileEntry(name, 0, "") for name in names)
        return [
            FileEntry(found.path, found.size, found.lfs.sha256 if found.lfs else "") for found in self._there(asked)
        ]

    def fetch(self, name: str, target: Path) -> None:
        place = target.parent / FETCHING
        fetched = self._hub.hf_hub_download(self._repo, name, revision=self._head, local_dir=place)
        Path(fetched).rename(target)

    def push(self, files: dict[str, Path | bytes], manifest: FarManifest, message: str) -> None:
        """Raises HfHubHTTPError 412 where somebody has committed since `manifest` was asked."""
        if self._head is None:
            self._hub.create_repo(self._repo, private=self._private, exist_ok=True)
            self._head = self._hub.model_info(self._repo).sha
        named = {entry.name for entry in manifest.files}
        gone = sorted(name for name in self._names if name.startswith(STATE) and name not in named)
        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            CommitOperationAdd(name, str(content) if isinstance(content, Path) else content)
            for name, content in {**files, FAR_MANIFEST: encode(manifest)}.items()
        ]
        operations += [CommitOperationDelete(name, is_folder=False) for name in gone]
        # With its parent named, a commit whose answer was lost is refused when it is sent again.
        self._hub.create_commit(self._repo, operations, commit_message=message, parent_commit=self._head)

    def wrong(self, entries: tuple[FileEntry, ...]) -> list[str]:
        there = {found.path: found for found in self._there(entries)}
        return [entry.name for entry in entries if not self._is_right(entry, there.get(entry.name))]

    def _there(self, entries: tuple[FileEntry, ...]) -> Iterator[RepoFile]:
        for start in range(0, len(entries), ASKED_AT_ONCE):
            names = [entry.name for entry in entries[start : start + ASKED_AT_ONCE]]
            for found in self._hub.get_paths_info(self._repo, names):
                if isinstance(found, RepoFile):
                    yield found

    def _is_right(self, entry: FileEntry, found: RepoFile | None) -> bool:
        """Large files have a digest there; small ones are read back."""
        if found is None or found.size != entry.size:
            return False
        if found.lfs is not None:
            return found.lfs.sha256 == entry.sha256
        with tempfile.TemporaryDirectory(prefix="adam-far-") as place:
            try:
                self._hub.hf_hub_download(self._repo, entry.name, local_dir=place, force_download=True)
            except EntryNotFoundError:
                return False
            return sha256_file(Path(place) / entry.name) == entry.sha256

    def forget(self, manifest: FarManifest) -> None:
        wanted = {entry.sha256 for entry in manifest.files}
        large = {found.lfs.sha256 for found in self._there(manifest.files) if found.lfs is not None}
        stored = list(self._hub.list_lfs_files(self._repo))
        if not large <= {oid for file in stored for oid in (file.oid, file.file_oid)}:
            return  # what is needed is not in the list: then its names are not digests, and it says nothing of the others
        old = [file for file in stored if not wanted & {file.oid, file.file_oid} and is_ours(file.filename)]
        if old:
            self._hub.permanently_delete_lfs_files(self._repo, old)


def is_ours(name: str) -> bool:
    """True where an upload may have put a file of this name there, now or before."""
    return name == WEIGHTS or name.startswith((STATE, DATA))


def client_that_gives_up() -> Any:
    """The library's own waits for ever where a server has stopped in the middle."""
    client = default_client_factory()
    client.timeout = SILENT_S
    return client
