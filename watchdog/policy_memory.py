"""The policy where memory did not suffice: fewer samples at once, as many in an update. Pure."""

from msgspec.structs import replace

from adam.contract.states import FailureClass
from adam.watchdog.policy_turn import Turn


def shrink(turn: Turn, kind: FailureClass) -> bool:
    """Have the next attempt compute at most half as many samples at once; False where that is no answer, or no longer one.

    Losses are then no longer bit for bit those of before: the trainer's fingerprint says so, and the event follows from it.
    """
    if kind != FailureClass.MEMORY or turn.plan.program != "trainer":
        return False
    before = turn.micro_batch or turn.settings.micro_batch
    after = smaller(before, turn.settings.batch_size // turn.settings.gpus)
    if after == before:
        return False
    turn.set(changes=replace(turn.changes, micro_batch=after))
    turn.tell(
        "plan_changed",
        f"out of memory: {after} samples are computed at once, not {before}; an update has {turn.settings.batch_size} as ever",
        micro_batch=after,
    )
    return True


def smaller(micro_batch: int, share: int) -> int:
    """The largest divisor of a GPU's share of the batch that is at most half of `micro_batch`; 1 stays 1."""
    return next((size for size in range(micro_batch // 2, 0, -1) if share % size == 0), micro_batch)
