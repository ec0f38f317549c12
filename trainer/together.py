"""What the ranks of an attempt have to do at the same micro-step: stop, pause, save, validate. A rank alone asks nobody.

Whatever hangs on a clock, a file or a signal is seen by each rank at another time. Rank 0 looks, and the others are told: all follow the
same words from one look to the next. A rank that waits for these words beats: the one that keeps all waiting is the one that is quiet.
"""

from collections.abc import Callable
from typing import TypeVar

import msgspec
import torch.distributed as dist
from torch import Tensor

from adam.contract.shared import Control
from adam.trainer.heart import Heart
from adam.trainer.ranks import Ranks

T = TypeVar("T")


class Together:
    """This rank among `world` ranks; to be made by all of them. `stop_requested`: whether this process was asked to stop by a signal."""

    def __init__(self, heart: Heart, stop_requested: Callable[[], bool], rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world
        self._heart, self._stop_requested = heart, stop_requested
        self._ranks = Ranks()

    @property
    def first(self) -> bool:
        """True on the rank that writes what there is once for all of them."""
        return self.rank == 0

    def look(self) -> None:
        """From here on all ranks follow what rank 0 is asked for now."""
        if self.world > 1:
            word = self._heart.asked()
            word = msgspec.structs.replace(word, stop=int(self.asked_to_stop()))
            told = self._ranks.told(list(msgspec.structs.astuple(word)), self._heart.beat)
            self._heart.follow(Control(*told))

    def stopping(self) -> bool:
        """Whether somebody wants an end, as of the last look."""
        return self.asked_to_stop() if self.world == 1 else bool(self._heart.control().stop)

    def asked_to_stop(self) -> bool:
        """Whether somebody wants an end now, as this rank alone sees it."""
        return self._stop_requested() or bool(self._heart.asked().stop)

    def told(self, number: int) -> int:
        """Rank 0's number."""
        return self._ranks.told([number], self._heart.beat)[0]

    def each(self, value: T) -> list[T]:
        """The value of each rank, in their order."""
        return self._ranks.all(value)

    def all(self, flag: bool) -> bool:
        """Whether it is so on all ranks."""
        return bool(self._ranks.least(int(flag)))

    def sums(self, *numbers: float) -> list[float]:
        """The sum of each number over the ranks."""
        return self._ranks.sums(list(numbers))

    def total(self, value: Tensor) -> Tensor:
        """The sum over the ranks of a tensor where training is; done in place."""
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def share(self, begin: int, size: int) -> slice:
        """This rank's part of what is dealt out in order, `size` to each rank, from `begin` on."""
        return slice(begin + self.rank * size, begin + (self.rank + 1) * size)
