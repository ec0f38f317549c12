"""Which checkpoints may go: a pure function of what there is. Never the last verified one, nor any newer one."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from adam.contract.retention import Rules, in_order, why_kept


class Kept(msgspec.Struct, frozen=True):
    """A checkpoint on disk; `verified` where its bytes are known to be right."""

    name: str
    step: int
    attempt: int
    verified: bool
    made: float | None = None  # when, by the wall clock; None: not known


def superfluous(
    checkpoints: Iterable[Kept], rules: Rules, pins: Mapping[str, Sequence[str]], sound: int = 0
) -> list[str]:
    """Names to delete, oldest first: what no rule and no pin keeps, of those before the newest verified one. `sound`: see `why_kept`.

    Where none is known to be verified, nothing goes.
    """
    ordered = in_order(checkpoints)
    verified = [place for place, item in enumerate(ordered) if item.verified]
    if not verified:
        return []
    reasons = why_kept(ordered, rules, pins, sound)
    return [item.name for item in ordered[: verified[-1]] if not reasons[item.name]]
