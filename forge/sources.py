"""Sources: generators of documents, in an order that is the same each time."""

import ast
import hashlib
import os
import stat
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from adam.contract.config_forge import Source
from adam.contract.errors import DataError
from adam.contract.shards import path_text
from adam.forge.documents import Document
from adam.forge.readers import READERS, SkippedError, read_prose

LARGEST_FILE = 256 * 1024 * 1024  # bytes that are read whole; JSON lines are streamed and may be of any size
LEFT_OUT = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages"})


class Origin(NamedTuple):
    """A configured source with its files, in the order in which they are read."""

    source: Source
    name: str
    kind: str
    path: str
    licence: str
    files: list[Path]


class FileStatus(NamedTuple):
    """Of a file as it was listed; zeros where it can't be read."""

    size: int
    mtime_ns: int
    unusable: str  # why it can't be read, as it is counted; empty: it can


def file_status(path: Path) -> FileStatus:
    """A pipe would be waited for without end, a link may lead nowhere: only ordinary files are opened."""
    try:
        status = path.stat()
    except OSError:
        return FileStatus(0, 0, "unreadable")
    if not stat.S_ISREG(status.st_mode) or not os.access(path, os.R_OK):
        return FileStatus(0, 0, "unreadable")
    return FileStatus(status.st_size, status.st_mtime_ns, "")


def open_sources(sources: tuple[Source, ...], run: Path) -> list[Origin]:
    """All sources with their files, under names that differ. Raises DataError naming the first that can't be used."""
    origins: list[Origin] = []
    for source in sources:
        origin = open_source(source, run)
        taken = {other.name for other in origins}
        names = [origin.name, *(f"{origin.name}-{number}" for number in range(2, len(sources) + 1))]
        origins.append(origin._replace(name=next(name for name in names if name not in taken)))
    return origins


def open_source(source: Source, run: Path) -> Origin:
    """List the files of a source. Raises DataError where it is not there or has no file that could be read."""
    if source.kind == "stdlib":
        root = Path(sysconfig.get_paths()["stdlib"])
        version = "{}.{}.{}".format(*sys.version_info)
        return Origin(
            source,
            source.name or "stdlib",
            "stdlib",
            f"python-{version}",
            source.licence or "PSF-2.0",
            list(_walk(root, {".py"})),
        )
    path = Path(os.path.normpath(run / Path(source.path).expanduser()))
    if not path.exists():
        raise DataError(f"no such source: {path}", "correct forge.sources in adam.toml")
    files = list(_walk(path, set(READERS))) if path.is_dir() else [path]
    if not files:
        raise DataError(f"the source {path} has no text files", f"known endings are {' '.join(sorted(READERS))}")
    return Origin(source, source.name or path.stem or str(path), "files", path_text(path), source.licence, files)


def _walk(root: Path, endings: set[str]) -> Iterator[Path]:
    """Files below `root` with a known ending, sorted by path; hidden ones and links to folders are left out.

    A folder that can't be listed comes as itself, so that it is counted and named like a file that can't be read.
    """
    closed: list[Path] = []
    for directory, folders, names in os.walk(root, onerror=lambda error: closed.append(Path(error.filename))):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in LEFT_OUT)
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in endings:
                yield Path(directory, name)
    yield from closed


def documents(path: Path, kind: str, status: FileStatus) -> Iterable[Document]:
    """The documents of a file. Raises SkippedError with the reason where the whole file can't be used."""
    if status.unusable:
        raise SkippedError(status.unusable)
    if kind == "stdlib" and path.name == "topics.py" and path.parent.name == "pydoc_data":
        return _topics(path)
    # A file that was named itself is read as prose whatever its ending.
    reader = READERS.get(path.suffix.lower(), read_prose)
    if path.suffix.lower() != ".jsonl" and status.size > LARGEST_FILE:
        raise SkippedError("too_large")
    return reader(path)


def _topics(path: Path) -> Iterator[Document]:
    """The language reference, one document a topic: `topics = {name: prose}` in a module that is read, not run."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            yield from (Document(text) for text in ast.literal_eval(node.value).values())


def listing_digest(origins: list[Origin]) -> str:
    """Of all names, sizes and times of change: what a journal of a killed run must agree with."""
    digest = hashlib.sha256()
    for origin in origins:
        for path in origin.files:
            status = file_status(path)
            digest.update(os.fsencode(f"{origin.name}\0{path}\0{status.size}\0{status.mtime_ns}\0{status.unusable}\n"))
    return digest.hexdigest()
