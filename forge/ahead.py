"""A source that is read some way ahead, so that its documents are judged many at a time, and by other processes meanwhile."""

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from adam.forge.documents import Document
from adam.forge.filters import Filters
from adam.forge.hub import HubError
from adam.forge.journal import Cursor
from adam.forge.reading import FileEnd, SourceReader

AHEAD_DOCUMENTS, AHEAD_S = 4000, 0.5  # read before the next look at whether an end is asked for


class _Step(NamedTuple):
    """What the reader gave, and how it stood then."""

    found: Document | FileEnd | HubError | None
    cursor: Cursor
    characters: int
    size: int


class JudgedReader:
    """As SourceReader, but documents come with a verdict; `cursor` is behind the last one that was given, not read.

    Args:
        tick: a sign of life, called for each step.
    """

    def __init__(self, reader: SourceReader, filters: Filters, tick: Callable[[], object]) -> None:
        self._reader, self._filters, self._tick, self.origin = reader, filters, tick, reader.origin
        self._ready: deque[_Step] = deque()
        self._coming: deque[tuple[list[_Step], Callable[[], None]]] = deque()
        self.cursor, self.characters, self.size = msgspec.structs.replace(reader.cursor), 0, 0

    def next(self) -> Document | FileEnd | None:
        """As SourceReader.next. Raises AdamError where a process that judges has died."""
        if not self._ready:
            self._read_on()
        found, self.cursor, self.characters, self.size = self._ready.popleft()
        if isinstance(found, HubError):
            raise found
        return found

    def _read_on(self) -> None:
        """A batch is waited for while the one behind it is judged; where nothing is judged, one step."""
        ahead = 1 if self.cursor.turn else self._filters.ahead_chars  # who is read again was judged before
        self._coming.append(self._batch(ahead))
        while len(self._coming) < 2 and ahead > 1 and self._goes_on():
            self._coming.append(self._batch(ahead))
        steps, settle = self._coming.popleft()
        settle()
        self._ready.extend(steps)

    def _goes_on(self) -> bool:
        return isinstance(self._coming[-1][0][-1].found, Document | FileEnd)

    def _batch(self, ahead: int) -> tuple[list[_Step], Callable[[], None]]:
        steps: list[_Step] = []
        characters, until = 0, time.monotonic() + AHEAD_S
        while not steps or (characters < ahead and len(steps) < AHEAD_DOCUMENTS and time.monotonic() < until):
            self._tick()
            steps.append(self._step())
            found = steps[-1].found
            if not isinstance(found, Document | FileEnd):
                break
            characters += len(found.text) if isinstance(found, Document) else 1
        return steps, self._filters.judge([step.found for step in steps if isinstance(step.found, Document)])

    def _step(self) -> _Step:
        found: Document | FileEnd | HubError | None
        try:
            found = self._reader.next()
        except HubError as error:
            found = error
        return _Step(found, msgspec.structs.replace(self._reader.cursor), self._reader.characters, self._reader.size)

    def again(self) -> None:
        """Begin at the first file once more. What was read ahead is behind the end, and nothing."""
        self._ready.clear()
        self._coming.clear()
        self._reader.again()
        self.cursor = msgspec.structs.replace(self._reader.cursor)
