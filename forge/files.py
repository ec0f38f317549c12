"""Files as readers see them: of this machine or of the Hub, compressed or not, with what went wrong told apart.

A file that can't be read from (a disk, a network) is another matter than one whose bytes are wrong: the first may be tried again.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

from adam.contract.errors import ConfigError

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
NEEDS = {".parquet": "pyarrow", ".arrow": "pyarrow", ".pdf": "pypdf"}
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)


class SkippedError(Exception):
    """The whole file can't be used, or the rest of it; the text is the reason, as it is counted."""


class RemoteFile(Protocol):
    """What is not on this machine."""

    size: int
    digest: str  # SHA-256 of its bytes where the place tells it, else another name of them

    @property
    def name(self) -> str: ...
    def open(self, mode: str) -> IO[bytes]: ...


File = Path | RemoteFile


class FetchError(Exception):
    """The bytes of a file could not be had; the error that says why is its cause."""


class Watched(io.RawIOBase):
    """The bytes of an open file. What its own reads raise comes as FetchError, through any library that reads it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.trouble: Exception | None = None

    def _ask(self, ask: Any, *arguments: int) -> Any:
        try:
            return ask(*arguments)
        except Exception as error:
            self.trouble = error
            raise

    def readinto(self, buffer: Any) -> int:
        data = self._ask(self._file.read, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._ask(self._file.seek, offset, whence))

    def tell(self) -> int:
        return self._file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


class Members(io.RawIOBase):
    """The bytes of a packed file, all of its members.

    The library's own files take a damaged member for the end of the file and say nothing. Here it is damage, as in gzip.
    """

    def __init__(self, file: IO[bytes], new: Callable[[], Any], padding: bytes = b"") -> None:
        self._file, self._new, self._padding = file, new, padding
        self._member = new()
        self._left = b""  # packed bytes behind the last member

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises EOFError where the last member is cut, OSError or LZMAError where one is damaged."""
        data = b""
        while not data:
            if self._member is None and not self._begin():
                return 0
            packed = (self._left or self._file.read(1 << 16)) if self._member.needs_input else b""
            if self._member.needs_input and not packed:
                raise EOFError("the file ends within a member")
            self._left = b""
            data = self._member.decompress(packed, len(buffer))
            if self._member.eof:
                self._left, self._member = self._member.unused_data, None
        buffer[: len(data)] = data
        return len(data)

    def _begin(self) -> bool:
        """Whether there is another member."""
        while not (left := self._left.lstrip(self._padding) if self._padding else self._left):
            self._left = self._file.read(1 << 16)
            if not self._left:
                return False
        self._left, self._member = left, self._new()
        return True


@contextmanager
def open_file(file: File) -> Iterator[IO[bytes]]:
    """The bytes of a file as they were before it was compressed.

    Raises FetchError where they can't be had, SkippedError("damaged") where they can't be unpacked.
    """
    try:
        watched = Watched(file.open("rb"))
    except Exception as error:
        raise FetchError from error
    try:
        with watched, _unpacked(io.BufferedReader(watched, 1 << 18), file.name) as opened:
            yield opened
    except DAMAGED:
        raise SkippedError("damaged") from watched.trouble
    except Exception as error:
        if watched.trouble is not None:
            raise FetchError from watched.trouble
        if isinstance(error, OSError) and file.name.lower().endswith(COMPRESSED):
            raise SkippedError("damaged") from None  # bz2 and pyarrow say so by a plain OSError
        raise


@contextmanager
def _unpacked(file: io.BufferedReader, name: str) -> Iterator[IO[bytes]]:
    opened: Any
    match PurePosixPath(name).suffix.lower():
        case ".gz":
            opened = gzip.GzipFile(fileobj=file)
        case ".bz2":
            opened = io.BufferedReader(Members(file, bz2.BZ2Decompressor))
        case ".xz":
            opened = io.BufferedReader(Members(file, lzma.LZMADecompressor, b"\0"))
        case ".zst":
            opened = io.BufferedReader(extra("pyarrow", ".zst files").CompressedInputStream(file, "zstd"))
        case _:
            opened = file
    with opened:
        yield opened


def extra(module: str, what: str) -> Any:
    """A module that only some sources need. Raises ConfigError with what installs it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(
            f"{what} need the package {module.partition('.')[0]}, which is not installed",
            'install it with `pip install "adam-trainer[forge]"`',
        ) from None


def package_missing(name: str) -> str:
    """The package that a file of this name needs and that is not installed; empty: it can be read."""
    import importlib.util

    needed = "pyarrow" if name.lower().endswith(".zst") else NEEDS.get(ending(name), "")
    return needed if needed and importlib.util.find_spec(needed) is None else ""


def ending(name: str) -> str:
    """The ending that says what a file is: `.jsonl` of `a.JSONL.gz`."""
    path = PurePosixPath(name.lower())
    return (path.with_suffix("") if path.suffix in COMPRESSED else path).suffix
