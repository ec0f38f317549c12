"""How often a checkpoint is written to disk: a pure function of what it costs and what its loss would."""

import math

DAY_S = 86400.0
SHORTEST_S = 600.0
LONGEST_S = 1200.0  # of what is chosen: a copy costs training next to nothing, what it would have kept is lost whole
FIRST_COST_S = 10.0  # before any was measured


def failure_interval_s(failures: int, watched_s: float) -> float:
    """Mean time between losses of the machine's memory: what was seen, beside a prior of one a day."""
    return (watched_s + DAY_S) / (failures + 1)


def young_s(cost_s: float, failure_interval: float) -> float:
    """The interval that loses least time (Young, CACM 17(9), 1974): sqrt(2 x cost x mean time between failures)."""
    return math.sqrt(2 * cost_s * failure_interval)


def checkpoint_interval_s(
    *, cost_s: float, size: int, failures: int, watched_s: float, bytes_per_day: float, minutes: float
) -> float:
    """Seconds between two checkpoints: `minutes` where somebody has set them; else Young's interval, but never under ten
    minutes nor over twenty, and never so short that more than `bytes_per_day` are written."""
    if minutes > 0:
        return minutes * 60
    worn = DAY_S * size / bytes_per_day
    chosen = young_s(cost_s or FIRST_COST_S, failure_interval_s(failures, watched_s))
    return max(SHORTEST_S, worn, min(LONGEST_S, chosen))
