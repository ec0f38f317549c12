"""What a check of `adamctl doctor` says."""

from enum import StrEnum

import msgspec


class Mark(StrEnum):
    OK = "ok"
    WARN = "warn"  # training works, with a drawback
    BAD = "bad"  # training does not work


class Finding(msgspec.Struct, frozen=True):
    """One line of the report; `todo` is what to do about it."""

    mark: Mark
    what: str
    todo: str = ""

    def line(self) -> str:
        return f"{self.mark.value:<4}  {self.what}" + (f"; {self.todo}" if self.todo else "")


def ok(what: str) -> Finding:
    return Finding(Mark.OK, what)


def warn(what: str, todo: str) -> Finding:
    return Finding(Mark.WARN, what, todo)


def bad(what: str, todo: str) -> Finding:
    return Finding(Mark.BAD, what, todo)
