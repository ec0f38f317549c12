"""The watchdog's own log: one line an event, key=value, straight into its file."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import structlog
from structlog.typing import FilteringBoundLogger


def open_log(path: Path) -> FilteringBoundLogger:
    """Log to `path`, and send this process's stdout and stderr (tracebacks too) there: a pipe to supervisord could block us."""
    with suppress(OSError):  # a disk that takes no file is told in the status
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        os.close(fd)
    return logger_to(sys.stderr)


def logger_to(file: TextIO) -> FilteringBoundLogger:
    structlog.configure(
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "event"], bool_as_flag=False),
        ],
        logger_factory=lambda: _Lines(file),
        cache_logger_on_first_use=True,
    )
    logger: FilteringBoundLogger = structlog.get_logger()
    return logger


class _Lines:
    """Writes lines; a disk that does not take them must not end the watchdog."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def msg(self, message: str) -> None:
        try:
            self._file.write(message + "\n")
            self._file.flush()
        except OSError:
            return  # the disk is full: the event is in the status too

    debug = info = warning = error = msg
