"""How often a checkpoint is written to disk, and how often processes die: pure functions."""

from adam.contract.young import young_s

DAY_S = 86400.0
SHORTEST_S = 600.0
LONGEST_S = 1200.0  # of what is chosen: a copy costs training next to nothing, what it would have kept is lost whole
FIRST_COST_S = 10.0  # before any was measured
DEATHS = 5  # that are remembered
LATELY_S = 3600.0


def deaths_lately(deaths: tuple[float, ...], now: float) -> tuple[float, ...]:
    """Those of the last hour, the newest DEATHS of them; `deaths` and `now` in seconds since boot, those of another boot may lie ahead."""
    return tuple(at for at in deaths if now - LATELY_S <= at <= now)[-DEATHS:]


def death_interval_s(deaths: tuple[float, ...], now: float) -> float:
    """Mean seconds between processes' deaths; 0 where fewer than two were seen lately."""
    seen = deaths_lately(deaths, now)
    return (seen[-1] - seen[0]) / (len(seen) - 1) if len(seen) > 1 else 0.0


def failure_interval_s(failures: int, watched_s: float) -> float:
    """Mean time between losses of the machine's memory: what was seen, beside a prior of one a day."""
    return (watched_s + DAY_S) / (failures + 1)


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
