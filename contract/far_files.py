"""A far place in a directory that fsspec knows: file://, s3:// (with s3fs), memory:// …"""

import hashlib
from pathlib import Path

import fsspec

from adam.contract.checkpoints import FileEntry
from adam.contract.durable import COPY_BLOCK
from adam.contract.errors import UsageError
from adam.contract.far import FAR_MANIFEST, STATE, FarManifest
from adam.contract.schema import decode, encode

BEING_WRITTEN = ".uploading"


class FilesFar:
    """Raises UsageError where fsspec has no such kind of place here."""

    errors: tuple[type[Exception], ...] = (OSError,)

    def __init__(self, url: str) -> None:
        self.where = url
        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise UsageError(f"{url}: {error}", "install what fsspec needs for it, or name another target") from None
        # Object stores show a file when all of it is there; a file system shows it while it grows.
        self._renames = "file" in self._files.protocol

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def manifest(self) -> FarManifest | None:
        try:
            data = self._files.cat_file(self._path(FAR_MANIFEST))
        except FileNotFoundError:
            return None
        return decode(data, FarManifest, f"{self.where}/{FAR_MANIFEST}")

    def fetch(self, name: str, target: Path) -> None:
        self._files.get_file(self._path(name), str(target))

    def push(self, files: dict[str, Path | bytes], manifest: FarManifest, message: str) -> None:
        del message
        for name, content in files.items():
            self._put(name, content)
        self._put(FAR_MANIFEST, encode(manifest))
        self._remove_states(manifest)

    def _put(self, name: str, content: Path | bytes) -> None:
        path = self._path(name)
        place = path + BEING_WRITTEN if self._renames else path
        self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
        if isinstance(content, Path):
            self._files.put_file(str(content), place)
        else:
            self._files.pipe_file(place, content)
        if place != path:
            self._files.mv(place, path)

    def _remove_states(self, manifest: FarManifest) -> None:
        wanted = {entry.name.split("/")[1] for entry in manifest.files if entry.name.startswith(STATE)}
        if not self._files.isdir(self._path(STATE.rstrip("/"))):
            return
        for path in self._files.ls(self._path(STATE.rstrip("/")), detail=False):
            if path.rstrip("/").rpartition("/")[2] not in wanted:
                self._files.rm(path, recursive=True)

    def wrong(self, entries: tuple[FileEntry, ...]) -> list[str]:
        return [entry.name for entry in entries if self._digest(entry.name) != entry.sha256]

    def _digest(self, name: str) -> str:
        """Of the bytes as they are there, all of them read back; empty where there is no such file."""
        digest = hashlib.sha256()
        try:
            with self._files.open(self._path(name), "rb") as file:
                while block := file.read(COPY_BLOCK):
                    digest.update(block)
        except FileNotFoundError:
            return ""
        return digest.hexdigest()

    def forget(self, manifest: FarManifest) -> None:
        """Nothing: what was replaced or removed is gone."""
