"""How the ranks of an attempt agree: small words through gloo, from host to host, whatever device training is on.

Ranks ask the same questions of a `Ranks` in the same order. What may be asked in between, or by another thread, has one of its own.
"""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
LONGEST_WAIT = timedelta(
    days=30
)  # a rank waits for a disk that is full; whether one hangs, the watchdog sees by its pulse
FIRST_NAP_S, LONGEST_NAP_S = 2e-5, 5e-3
BEAT_S = 0.2


class Ranks:
    """The ranks of torch's default process group; where there is none, this process alone. To be made by all ranks."""

    def __init__(self) -> None:
        there = dist.is_available() and dist.is_initialized()
        self._group = dist.new_group(backend="gloo", timeout=LONGEST_WAIT) if there else None

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

    def told(self, numbers: list[int], meanwhile: Callable[[], None]) -> list[int]:
        """Rank 0's numbers (of 64 bits, signed), on each rank; `meanwhile` is called now and then by those who wait for them."""
        if self._group is None:
            return numbers
        word = torch.tensor(numbers, dtype=torch.int64)
        work = dist.broadcast(word, 0, group=self._group, async_op=True)
        nap, beat_at = FIRST_NAP_S, time.monotonic() + BEAT_S
        while not work.is_completed():
            time.sleep(nap)
            nap = min(2 * nap, LONGEST_NAP_S)
            if time.monotonic() > beat_at:
                meanwhile()
                beat_at = time.monotonic() + BEAT_S
        work.wait()  # raises where another rank is gone
        found: list[int] = word.tolist()
        return found

    def sums(self, numbers: list[float]) -> list[float]:
        """The sum of each number over the ranks, in fp64; waits for all."""
        if self._group is None:
            return numbers
        total = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(total, group=self._group)
        found: list[float] = total.tolist()
        return found

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
