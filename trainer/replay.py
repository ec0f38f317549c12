"""Now and then a micro-step is computed twice and compared bit for bit: a chip that computes wrong is seen before a week is lost to it.

`sound` is the last step up to which all is known to come of a chip that computed right: where it was found to, or, of an attempt that has
not looked yet, what its plan says.
"""

import time
from collections.abc import Callable, Iterable

import torch

from adam.trainer.sums import all_sums

FIRST_S = 60.0  # after an attempt's start: a machine that fails every half hour is to be looked at too


class Replay:
    """When to look. `minutes` between two looks; 0: never."""

    def __init__(self, minutes: float, sound: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.sound = sound
        self._every_s, self._clock = minutes * 60, clock
        self._at = clock() + min(FIRST_S, self._every_s)

    @property
    def due(self) -> bool:
        return self._every_s > 0 and self._clock() >= self._at

    def agreed(self, step: int) -> None:
        """Both times the same, of the state behind `step`."""
        self.sound, self._at = step, self._clock() + self._every_s


def gradient_sums(share: torch.Tensor, parameters: Iterable[torch.nn.Parameter]) -> list[str]:
    """Checksums of a micro-step's loss and of each gradient, which they wait for."""
    return all_sums([share, *(parameter.grad for parameter in parameters if parameter.grad is not None)])
