"""One source, read from a cursor on: documents, ends of files, and troubles that may pass."""

from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import msgspec

from adam.forge.documents import Document
from adam.forge.files import FetchError, SkippedError
from adam.forge.hub import HubError, HubFile, explained
from adam.forge.journal import Cursor
from adam.forge.parts import Opener, parts
from adam.forge.sources import Origin, documents, file_status, file_text

LONGEST_WAIT_S = 60.0


class FileEnd(NamedTuple):
    """File `number` was read to its end, or to where it could not be read any more."""

    number: int
    skipped: str


class SourceReader:
    """Gives the documents of a source one by one; `cursor` is behind the last one that was given."""

    def __init__(self, origin: Origin, opener: Opener, cursor: Cursor) -> None:
        self.origin, self._opener = origin, opener
        self.cursor = msgspec.structs.replace(cursor)
        self.characters = self.size = 0  # given of the present file, and its bytes
        self._file: Iterator[Document] | None = None
        self._parts: Iterator[Document] | None = None

    def next(self) -> Document | FileEnd | None:
        """The next document, or that a file has ended; None behind the last file. Raises HubError: call again, or give up."""
        cursor = self.cursor
        while cursor.file < len(self.origin.files):
            try:
                document = self._next_part()
            except SkippedError as error:
                return self._end_file(str(error))
            except FetchError as error:
                self._file = self._parts = None
                file = self.origin.files[cursor.file]
                assert isinstance(file, HubFile)
                raise explained(file.repo, error.__cause__ or error) from None
            if document is None:
                return self._end_file("")
            if isinstance(document, Document):
                return document
        return None

    def _next_part(self) -> Document | bool | None:
        """A document; True: the record has no more, ask again; None: the file has no more records."""
        cursor, file = self.cursor, self.origin.files[self.cursor.file]
        if self._file is None:
            self._file, self.characters = documents(file, self.origin, cursor.record), 0
            self.size = file_status(file).size
        if self._parts is None:
            whole = next(self._file, None)
            if whole is None:
                return None
            self.characters += len(whole.text)
            self._parts = islice(parts(whole, self._opener), cursor.part, None)
        document = next(self._parts, None)
        if document is None:
            self._parts = None
            cursor.record, cursor.part = cursor.record + 1, 0
            return True
        cursor.part += 1
        document.source, document.path, document.record = self.origin.name, file_text(file), cursor.record
        return document

    def _end_file(self, skipped: str) -> FileEnd:
        ended = FileEnd(self.cursor.file, skipped)
        self._file = self._parts = None
        self.cursor.file, self.cursor.record, self.cursor.part = self.cursor.file + 1, 0, 0
        return ended

    def again(self) -> None:
        """Begin at the first file once more."""
        self._file = self._parts = None
        self.cursor = Cursor(turn=self.cursor.turn + 1)


class Patience:
    """How long a source that fails is waited for: twice as long each time, until it has failed for `limit` seconds."""

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._since: float | None = None
        self._tries = 0

    def wait_for(self, error: HubError, now: float) -> float | None:
        """Seconds to wait before the next try; None: give the source up."""
        if self._since is None:
            self._since = now
        if error.lasting or now - self._since >= self._limit:
            return None
        self._tries += 1
        return min(LONGEST_WAIT_S, 2.0 ** (self._tries - 1), max(0.1, self._since + self._limit - now))

    def well(self) -> None:
        """It has given something."""
        self._since, self._tries = None, 0
