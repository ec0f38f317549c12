"""One source, read from a cursor on: documents, ends of files, and troubles that may pass."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from copy import copy
from itertools import islice
from typing import NamedTuple

from adam.forge.documents import Document
from adam.forge.files import FetchError, SkippedError
from adam.forge.filters import Filters
from adam.forge.hub import HubError, HubFile, explained
from adam.forge.journal import Cursor
from adam.forge.parts import Opener, is_whole, parts
from adam.forge.sources import Origin, documents, file_status, file_text

LONGEST_WAIT_S = 60.0
AHEAD, AHEAD_CHARS = 500, 2_000_000  # documents and characters that are read ahead of each source, twice
AHEAD_S = 1.0  # … or as many as come in this time: whoever asks for an end waits no longer


class FileEnd(NamedTuple):
    """File `number` was read to its end, or to where it could not be read any more."""

    number: int
    skipped: str


Item = tuple[Document | FileEnd, Cursor, int]  # what was read, the place behind it, bytes of its file that are done


class SourceReader:
    """Gives the documents of a source one by one; `cursor` is behind the last one that was given."""

    def __init__(self, origin: Origin, opener: Opener, cursor: Cursor) -> None:
        self.origin, self._opener = origin, opener
        self.cursor = copy(cursor)
        self._characters = self._size = 0  # given of the present file, and its bytes
        self._path = ""  # of the present file, as records and manifests have it
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

    @property
    def done(self) -> int:
        """About how many bytes of the present file have been read."""
        return min(self._characters, self._size)

    def _next_part(self) -> Document | bool | None:
        """A document; True: the record has no more, ask again; None: the file has no more records."""
        cursor, file = self.cursor, self.origin.files[self.cursor.file]
        if self._file is None:
            self._file, self._characters = documents(file, self.origin, cursor.record), 0
            self._path = file_text(file)
            self._size = file_status(file).size
        if self._parts is None:
            whole = next(self._file, None)
            if whole is None:
                return None
            self._characters += len(whole.text)
            if cursor.part == 0 and is_whole(whole, self._opener):
                self._sign(whole)
                cursor.record += 1
                return whole
            self._parts = islice(parts(whole, self._opener), cursor.part, None)
        document = next(self._parts, None)
        if document is None:
            self._parts = None
            cursor.record, cursor.part = cursor.record + 1, 0
            return True
        cursor.part += 1
        self._sign(document)
        return document

    def _sign(self, document: Document) -> None:
        """Fill in where it is from."""
        document.source, document.path, document.record = self.origin.name, self._path, self.cursor.record

    def _end_file(self, skipped: str) -> FileEnd:
        ended = FileEnd(self.cursor.file, skipped)
        self._characters = self._size = 0
        self._file = self._parts = None
        self.cursor.file, self.cursor.record, self.cursor.part = self.cursor.file + 1, 0, 0
        return ended

    def again(self) -> None:
        """Begin at the first file once more."""
        self._file = self._parts = None
        self.cursor = Cursor(turn=self.cursor.turn + 1)


class Ahead:
    """A source that is read some documents ahead, so that the filters' processes judge these while others are written.

    `cursor` and `done` are behind the item that was given last, not behind what was read. `tick`: a sign of life.
    """

    def __init__(self, reader: SourceReader, filters: Filters, tick: Callable[[], object]) -> None:
        self.origin = reader.origin
        self.cursor, self.done = copy(reader.cursor), 0
        self._reader, self._filters, self._tick = reader, filters, tick
        self._now: deque[Item] = deque()
        self._next: tuple[deque[Item], Callable[[], None]] | None = None
        self._trouble: HubError | None = None

    def next(self) -> Document | FileEnd | None:
        """As `SourceReader.next`."""
        if not self._now:
            if self._next is None:
                self._raise_trouble()
                self._next = self._read()
            self._now, settle = self._next
            self._next = None
            settle()
            if self._now and self._trouble is None:
                self._next = self._read()
        if not self._now:
            self._raise_trouble()
            return None
        found, self.cursor, self.done = self._now.popleft()
        return found

    def _raise_trouble(self) -> None:
        """What reading ahead met, once all that came before it was given."""
        trouble, self._trouble = self._trouble, None
        if trouble is not None:
            raise trouble

    def _read(self) -> tuple[deque[Item], Callable[[], None]]:
        """(items, what waits for the verdicts on them) of the next documents."""
        items: deque[Item] = deque()
        size, first_time, until = 0, self._reader.cursor.turn == 0, time.monotonic() + AHEAD_S
        while size < AHEAD_CHARS and len(items) < AHEAD and (not items or time.monotonic() < until):
            self._tick()
            try:
                found = self._reader.next()
            except HubError as error:
                self._trouble = error
                break
            if found is None:
                break
            size += len(found.text) if isinstance(found, Document) else 0
            items.append((found, copy(self._reader.cursor), self._reader.done))
        documents = [found for found, _, _ in items if isinstance(found, Document)]
        return items, self._filters.judge(documents) if first_time else lambda: None

    def again(self) -> None:
        """Begin at the first file once more."""
        self._reader.again()
        self._now.clear()
        self._next, self.cursor = None, copy(self._reader.cursor)


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
