"""How the ranks of an attempt agree on their snapshots: small words through gloo, from host to host, whatever device training is on.

Ranks ask the same questions of a `Ranks` in the same order. What may be asked in between, or by another thread, has one of its own.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


class Ranks:
    """The ranks of torch's default process group; where there is none, this process alone. To be made by all ranks."""

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo") if dist.is_available() and dist.is_initialized() else None

    def all(self, value: T) -> list[T]:
        """The value of each rank, in their order; waits for all."""
        if self._group is None:
            return [value]
        values = [value] * self._group.size()
        dist.all_gather_object(values, value, group=self._group)
        return values

    def least(self, number: int) -> int:
        """The smallest of the ranks' numbers; waits for all, about a millisecond where they come at the same time."""
        if self._group is None:
            return number
        numbers = torch.tensor([number])
        dist.all_reduce(numbers, dist.ReduceOp.MIN, group=self._group)
        return int(numbers)

    def arrive(self) -> Callable[[], bool]:
        """Say that this rank has come so far. What it gives says whether all have, without waiting."""
        if self._group is None:
            return lambda: True
        work = dist.all_reduce(torch.zeros(1), group=self._group, async_op=True)

        def arrived() -> bool:
            if not work.is_completed():
                return False
            work.wait()  # raises where another rank is gone
            return True

        return arrived
