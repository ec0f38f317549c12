"""Sources: generators of documents, in an order that is the same each time."""

import ast
import fnmatch
import hashlib
import os
import stat
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import msgspec

from adam.contract.config_forge import Forge, Source
from adam.contract.errors import DataError
from adam.contract.shards import path_text
from adam.forge.documents import Document, kind_of
from adam.forge.files import FetchError, File, SkippedError, ending, extra, package_missing
from adam.forge.hub import HubFile, list_files, readable
from adam.forge.readers import PACKED, READERS, read_prose
from adam.forge.registry import resolve
from adam.forge.templates import Template

FOLDERS_LEFT_OUT = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages"})
LeftOut = tuple[tuple[Path, str], ...]  # what is in a folder and is not read, and why
TODO = "correct forge.sources in adam.toml"


class Origin(NamedTuple):
    """A configured source with its files, in the order in which they are read.

    `source` has what the registry knows filled in; `revision` is the commit of a set of the Hub. `left_out`: what else is in
    the folder, and why nobody reads it.
    """

    source: Source
    name: str
    kind: str
    path: str
    licence: str
    files: list[File]
    template: Template
    revision: str = ""
    notes: tuple[str, ...] = ()
    left_out: LeftOut = ()


class FileStatus(NamedTuple):
    """Of a file as it was listed; zeros where it can't be read."""

    size: int
    mtime_ns: int
    unusable: str  # why it can't be read, as it is counted; empty: it can


def file_status(file: File) -> FileStatus:
    """A pipe would be waited for without end, a link may lead nowhere: only ordinary files are opened."""
    if not isinstance(file, Path):
        return FileStatus(file.size, 0, "")
    try:
        status = file.stat()
    except OSError:
        return FileStatus(0, 0, "unreadable")
    if not stat.S_ISREG(status.st_mode) or not os.access(file, os.R_OK):
        return FileStatus(0, 0, "unreadable")
    return FileStatus(status.st_size, status.st_mtime_ns, "")


def file_text(file: File) -> str:
    """How a file is called in records and manifests."""
    return file.url if isinstance(file, HubFile) else path_text(Path(str(file)))


def open_sources(
    forge: Forge, run: Path, pins: Mapping[str, str] | None = None, *, remote: bool = True
) -> list[Origin]:
    """All sources with their files, under names that differ. Raises DataError naming the first that can't be used.

    `pins`: source -> the commit that it was begun with. Without `remote` those of the Hub are left out, and nothing is asked of it.
    """
    origins: list[Origin] = []
    taken: set[str] = set()
    for source in forge.sources:
        first = _name(source, forge)
        names = [first, *(f"{first}-{number}" for number in range(2, len(forge.sources) + 1))]
        name = next(name for name in names if name not in taken)
        taken.add(name)
        if remote or resolve(source, forge).source.kind != "hub":
            origins.append(open_source(source, forge, run, (pins or {}).get(name, ""))._replace(name=name))
    check_shares(forge, taken)
    return origins


def check_shares(forge: Forge, known: set[str]) -> None:
    """Raise DataError where a mix names a source that is not there."""
    for number, phase in enumerate(forge.phases):
        if missing := set(phase.shares) - known:
            raise DataError(
                f"forge.phases[{number}].shares names {min(missing)!r}, which is no source",
                f"the sources are called {', '.join(sorted(known))}",
            )


def _name(source: Source, forge: Forge) -> str:
    if source.name or source.kind == "stdlib":
        return source.name or "stdlib"
    return resolve(source, forge).source.name or Path(source.path).stem or source.path


def open_source(source: Source, forge: Forge, run: Path, pin: str = "") -> Origin:
    """List the files of a source. Raises DataError where it is not there or has no file that could be read."""
    source, _, notes = resolve(source, forge)
    template = Template(source)
    if source.kind == "stdlib":
        root = Path(sysconfig.get_paths()["stdlib"])
        version, licence = "python-{}.{}.{}".format(*sys.version_info), source.licence or "PSF-2.0"
        here, others = _walk(root, (".py",))
        return Origin(source, "stdlib", "stdlib", version, licence, [*here], template, left_out=others)
    if source.kind == "hub":
        revision, files = list_files(source, pin)
        known = readable(files, set(READERS))
        if not known:
            raise DataError(
                f"{source.id} has no file of a known kind", f"known endings are {' '.join(sorted(READERS))}"
            )
        return Origin(source, source.name, "hub", source.id, source.licence, [*known], template, revision, notes)
    path = Path(os.path.normpath(run / Path(source.path).expanduser()))
    if not path.exists():
        raise DataError(f"no such source: {path}", TODO)
    files_here = [path] if _matches(path.name, source.files) else []
    left_out: LeftOut = ()
    if path.is_dir():
        files_here, left_out = _walk(path, (*READERS, *PACKED), source.files)
    if not files_here:
        raise DataError(f"the source {path} has no text files", f"known endings are {' '.join(sorted(READERS))}")
    if all(package_missing(file.name) for file in files_here):
        extra(package_missing(files_here[0].name), f"{path.name}: {ending(files_here[0].name)} files")
    name = source.name or path.stem or str(path)
    return Origin(source, name, "files", path_text(path), source.licence, [*files_here], template, "", notes, left_out)


def _walk(root: Path, endings: tuple[str, ...], patterns: tuple[str, ...] = ()) -> tuple[list[Path], LeftOut]:
    """The files below `root` that a reader takes, sorted by path, and what else is there with the reason why it is left out.

    A folder that can't be listed comes as a file, so that it is counted and named like one that can't be read.
    """
    found: list[Path] = []
    left_out: list[tuple[Path, str]] = []
    closed: list[Path] = []
    for directory, folders, names in os.walk(root, onerror=lambda error: closed.append(Path(error.filename))):
        here = Path(directory)
        entered = []
        for name in sorted(folders):
            if reason := _folder_left_out(here / name):
                left_out.append((here / name, reason))
            else:
                entered.append(name)
        folders[:] = entered
        for name in sorted(names):
            if reason := _file_left_out(here / name, root, endings, patterns):
                left_out.append((here / name, reason))
            else:
                found.append(here / name)
    return found + closed, tuple(left_out)


def _folder_left_out(path: Path) -> str:
    if path.is_symlink():
        return "link_to_folder"
    if path.name.startswith("."):
        return "hidden"
    return "folder_left_out" if path.name in FOLDERS_LEFT_OUT else ""


def _file_left_out(path: Path, root: Path, endings: tuple[str, ...], patterns: tuple[str, ...]) -> str:
    if path.name.startswith("."):
        return "hidden"
    if not (path.suffix and path.name.lower().endswith(endings)):
        return "unknown_ending"
    return "" if _matches(str(path.relative_to(root)), patterns) else "not_selected"


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def documents(file: File, origin: Origin, first: int = 0) -> Iterator[Document]:
    """The documents of a file from its record `first` on.

    Raises SkippedError with the reason where the (rest of the) file can't be used, FetchError where it can't be read now.
    """
    if unusable := file_status(file).unusable:
        raise SkippedError(unusable)
    if missing := package_missing(file.name):
        raise SkippedError(f"needs_{missing}")
    if isinstance(file, Path) and origin.kind == "stdlib" and file.parts[-2:] == ("pydoc_data", "topics.py"):
        found: Iterator[Document] = islice(_topics(file), first, None)
    else:
        # A file that was named itself is read as prose whatever its ending.
        found = READERS.get(ending(file.name), read_prose)(file, origin.template, first)
    try:
        for document in found:
            if origin.source.text and not document.dropped:
                document.kind = kind_of(origin.source.text)
            yield document
    except FetchError:
        if isinstance(file, Path):
            raise SkippedError("unreadable") from None
        raise


def _topics(path: Path) -> Iterator[Document]:
    """The language reference, one document a topic: `topics = {name: prose}` in a module that is read, not run."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            yield from (Document(text) for text in ast.literal_eval(node.value).values())


def listing_digest(origins: list[Origin]) -> str:
    """Of all names, sizes and times of change, and of how they are read: what a journal of a killed run must agree with."""
    digest = hashlib.sha256()
    for origin in origins:
        digest.update(msgspec.json.encode(origin.source))
        for file in origin.files:
            status = file_status(file)
            digest.update(
                os.fsencode(f"{origin.name}\0{file_text(file)}\0{status.size}\0{status.mtime_ns}\0{status.unusable}\n")
            )
    return digest.hexdigest()
