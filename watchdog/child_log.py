"""A program's log: a plain file that it writes itself, so that nobody's pipe can block it."""

import os
from pathlib import Path

TAIL_LINES = 20
TAIL_BYTES = 16384
LONGEST_LINE = 400


class ChildLog:
    """`path`, opened for appending; where that can't be, the program writes to nowhere and `trouble` says why.

    The descriptor stays good when the file is renamed or its directory deleted.
    """

    def __init__(self, path: Path) -> None:
        self.trouble = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            self.trouble = f"the log {path} can't be written: {error.strerror}"
            self.fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._start = os.fstat(self.fd).st_size

    def tail(self) -> tuple[str, ...]:
        """The last lines that were written since this object was made, long ones cut."""
        if self.trouble:
            return (self.trouble,)
        size = os.fstat(self.fd).st_size
        begin = self._start if self._start <= size else 0  # cut short by whoever rotates logs: what is in it is ours
        start = max(begin, size - TAIL_BYTES)
        text = os.pread(self.fd, TAIL_BYTES, start).decode(errors="replace")
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        return tuple(line if len(line) <= LONGEST_LINE else line[:LONGEST_LINE] + " …" for line in lines[-TAIL_LINES:])
