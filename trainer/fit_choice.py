"""Which way to compute an update is the fastest that fits: pure. `trainer/fit.py` measures.

The larger a micro-batch, the better the chip is used, up to some size; keeping more for the backward saves time and takes memory. What is
tried: of each way, the fastest way first, the largest size that may fit and smaller ones, until a smaller one is slower.
"""

from collections.abc import Callable, Iterable, Sequence

from adam.contract.records import Fitted

MARGIN = 0.03  # of the room: what lies between allocations, and what a validation takes
AS_FAST = 1.01  # times that are apart by less are the same; the smaller peak is then taken
SMALL_BUFFERS = 2 << 30  # bytes that snapshots take where there is no room for a whole copy

Measure = Callable[[int, str], Fitted]


def sizes(batch_size: int, most: int) -> list[int]:
    """The divisors of `batch_size` that are at most `most`, the largest first."""
    return [size for size in range(min(batch_size, most), 0, -1) if batch_size % size == 0]


def search(
    candidates: Sequence[int],
    ways: Iterable[str],
    measure: Measure,
    fits: Callable[[Fitted], bool],
    more: Callable[[], bool],
) -> list[Fitted]:
    """What was measured, in that order.

    candidates: sizes, the largest first. ways: as `memory.ways`; the last is only tried where nothing else fits, if there are several.
    fits: with all that training has besides. more: False where there is no time for another one; the first that fits is still looked for.
    """
    found: list[Fitted] = []
    *first, last = ways
    for again in (*first, last):
        fitting = [one for one in found if fits(one)]
        if first and again == last and fitting:
            break
        before: Fitted | None = None
        for size in candidates:
            if not more() and any(map(fits, found)):
                break
            one = measure(size, again)
            found.append(one)
            if not fits(one):
                continue
            if before is not None and one.seconds > before.seconds:
                break
            before = one
    return found


def beside(one: Fitted, room: int, more: int) -> bool:
    """True where it fits beside `more` bytes."""
    return one.seconds > 0 and one.peak + more + MARGIN * room <= room


def pick(found: Iterable[Fitted], room: int, copy: int, most: int, failed: Sequence[Fitted] = ()) -> Fitted | None:
    """The fastest of those with at most `most` samples at once that fits beside a snapshot's copy, else beside small buffers; None: none.

    failed: ran out of memory in training; whatever takes as much does not come into question.
    """
    lowest = min((one.peak for one in failed), default=None)
    possible = [
        one for one in found if one.micro_batch <= most and (lowest is None or one.peak < lowest) and one not in failed
    ]
    for more in (copy, min(copy, SMALL_BUFFERS)):
        fitting = [one for one in possible if beside(one, room, more)]
        if fitting:
            bound = AS_FAST * min(one.seconds for one in fitting)
            return min((one for one in fitting if one.seconds <= bound), key=lambda one: (one.peak, one.seconds))
    return None
