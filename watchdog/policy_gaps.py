"""Quiet times that a phase has shown so far, counted by size: what is usual, and what can't be. Pure, of bounded size.

Sizes are classes, each √2 times as long as the one before: 32 numbers a phase stand for weeks.
"""

import math

GAP_BASE_S = 0.25  # the first class; shorter quiet times can't be told apart by a loop that looks hardly more often
GAP_STEP = math.sqrt(2.0)
GAP_CLASSES = 32  # up to 0.25 s × 2^15.5 = 3.2 h
GAPS_KEPT = 4096  # at this many the counts are halved, so that a run may change its speed
TIMES_P99 = 5.0
TIMES_LONGEST = 2.0  # what was survived once is no hang the next time, nor is what is a bit longer


def gap_class(seconds: float) -> int:
    if seconds <= GAP_BASE_S:
        return 0
    return min(GAP_CLASSES - 1, math.ceil(math.log(seconds / GAP_BASE_S, GAP_STEP)))


def gap_s(number: int) -> float:
    """The longest quiet time of a class, in seconds."""
    return GAP_BASE_S * GAP_STEP**number


def add_gap(gaps: tuple[int, ...], seconds: float) -> tuple[int, ...]:
    counts = list(gaps or (0,) * GAP_CLASSES)
    counts[gap_class(seconds)] += 1
    return tuple(count // 2 for count in counts) if sum(counts) >= GAPS_KEPT else tuple(counts)


def p99(gaps: tuple[int, ...]) -> float:
    """Seconds that 99 % of the gaps do not exceed, rounded up to their class; 0.0 where nothing was heard yet."""
    total, seen = sum(gaps), 0
    for number, count in enumerate(gaps):
        seen += count
        if total and seen >= 0.99 * total:
            return gap_s(number)
    return 0.0


def longest(gaps: tuple[int, ...]) -> float:
    """Seconds of the longest gap that is not forgotten yet, rounded up to its class; 0.0 where nothing was heard yet."""
    for number in range(len(gaps) - 1, -1, -1):
        if gaps[number]:
            return gap_s(number)
    return 0.0


def learnt_s(gaps: tuple[int, ...], floor: float, cap: float) -> float:
    """The deadline that these gaps teach: no less than `floor` and no more than `cap` seconds."""
    return max(floor, min(cap, max(TIMES_P99 * p99(gaps), TIMES_LONGEST * longest(gaps))))
