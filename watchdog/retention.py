"""Which checkpoints may go: a pure function of what there is. Never the last verified one, nor any newer one."""

from collections.abc import Iterable

import msgspec


class Kept(msgspec.Struct, frozen=True):
    """A checkpoint on disk; `verified` where its bytes are known to be right."""

    name: str
    step: int
    attempt: int
    verified: bool


def superfluous(checkpoints: Iterable[Kept], keep_last: int, milestone_every: int) -> list[str]:
    """Names to delete, oldest first.

    Kept are the newest `keep_last`, every multiple of `milestone_every` (0: none), the newest verified one and all after it.
    Where none is known to be verified, nothing goes.
    """
    ordered = sorted(checkpoints, key=lambda item: (item.step, item.attempt))
    verified = [place for place, item in enumerate(ordered) if item.verified]
    if not verified:
        return []
    first_safe = min(verified[-1], len(ordered) - keep_last)
    return [
        item.name
        for item in ordered[: max(0, first_safe)]
        if not (milestone_every and item.step % milestone_every == 0)
    ]
