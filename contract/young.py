"""How long to train between two saves."""

import math


def young_s(cost_s: float, failure_interval_s: float) -> float:
    """The interval that loses least time (Young, CACM 17(9), 1974): sqrt(2 x cost x mean time between failures), all in seconds."""
    return math.sqrt(2 * cost_s * failure_interval_s)
