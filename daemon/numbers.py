"""The last numbers of `metrics.csv`, read from its end: the file may have millions of rows."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

BLOCK = 1 << 16
MOST_BYTES = 1 << 23  # rows between two validations: more are not looked through
SPEED_ROWS = 20
NEEDED = ("attempt", "step", "tokens", "loss", "val_loss", "val_bits_per_byte", "tokens_per_sec")


class Numbers(msgspec.Struct, frozen=True):
    """Of the newest row that counts, and of the newest validation. None: not known, or not finite."""

    attempt: int = 0
    step: int = 0
    tokens: int = 0
    loss: float | None = None
    val_loss: float | None = None
    val_bits_per_byte: float | None = None
    tokens_per_second: float | None = None  # over the last rows of this attempt


def read_numbers(path: Path, upto: int | None = None) -> Numbers:
    """The numbers as they stood at step `upto`, else at the end of the file.

    Read backwards, a row counts only where its step is below that of every row behind it: the others were trained again.
    """
    newest: dict[str, str] | None = None
    speeds: list[float] = []
    below = float("inf") if upto is None else upto + 1
    for row in rows_backwards(path):
        step = int(row["step"])
        if step >= below:
            continue
        below = step
        newest = newest or row
        if (
            row["attempt"] == newest["attempt"]
            and len(speeds) < SPEED_ROWS
            and (speed := finite(row["tokens_per_sec"]))
        ):
            speeds.append(speed)
        if row["val_loss"]:
            return numbers_of(newest, row, speeds)
    return numbers_of(newest, None, speeds) if newest else Numbers()


def numbers_of(newest: dict[str, str], validated: dict[str, str] | None, speeds: list[float]) -> Numbers:
    return Numbers(
        attempt=int(newest["attempt"]),
        step=int(newest["step"]),
        tokens=int(newest["tokens"]),
        loss=finite(newest["loss"]),
        val_loss=finite(validated["val_loss"]) if validated else None,
        val_bits_per_byte=finite(validated["val_bits_per_byte"]) if validated else None,
        tokens_per_second=len(speeds) / sum(1 / speed for speed in speeds) if speeds else None,
    )


def finite(cell: str) -> float | None:
    """The number in a cell; None where it is empty or not finite (JSON has no NaN)."""
    return float(cell) if cell and cell not in ("nan", "inf", "-inf") else None


def rows_backwards(path: Path) -> Iterator[dict[str, str]]:
    """The complete rows, newest first, by the columns that the file itself names; at most MOST_BYTES of them."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        head = file.readline()
        if not head.endswith(b"\n"):
            return
        columns = head.decode().strip().split(",")
        if not set(NEEDED) <= set(columns):
            return  # of another Adam: the watchdog moves it aside when it starts
        first, position = len(head), file.seek(0, 2)
        lowest = max(first, position - MOST_BYTES)
        rest, at_end = b"", True
        while position > lowest:
            start = max(first, position - BLOCK)
            file.seek(start)
            lines = (file.read(position - start) + rest).split(b"\n")
            position = start
            rest = lines[0]  # its beginning is in the block before, or it is the first row
            whole = lines[1:] if start > first else lines
            if at_end and whole:
                whole, at_end = whole[:-1], False  # empty behind the last newline, or a torn row
            for line in reversed(whole):
                cells = line.decode().split(",")
                if len(cells) == len(columns):
                    yield dict(zip(columns, cells, strict=True))
