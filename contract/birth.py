"""What a launcher says to the trainer's template: a process that has imported torch and waits to be copied (fork).

Over a unix socket the launcher sends one `Birth` with the descriptors that FDS names; the template answers with the pid of the copy, as
decimal digits. The copy is the launcher's own child by then, and begins only when it reads GO from its gate: where the launcher has given
it up, the gate is closed and the copy ends.
"""

from typing import Annotated

from msgspec import Meta

from adam.contract.schema import Record

READY = b"ready"  # what the template says when torch is there
GO = b"go"
FDS = ("lease", "log", "words", "gate")
LONGEST = 4096  # bytes of a message


class Birth(Record, frozen=True, kw_only=True):
    """An attempt that a copy of the template is to carry out (writer: launcher)."""

    attempt: Annotated[int, Meta(ge=0)]
    token: Annotated[int, Meta(ge=0)]
    launcher_pid: int  # the copy dies with it
