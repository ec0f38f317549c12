"""The forge's log: one line an event, key=value, to stderr (the launcher's file, or the terminal)."""

import sys

import structlog


def open_log() -> None:
    structlog.configure(
        processors=[
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "event"], bool_as_flag=False),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
