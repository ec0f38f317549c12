"""Which way to compute an update is the fastest that fits: pure. `trainer/fit.py` measures.

The larger a micro-batch, the better the chip is used, up to some size; keeping more for the backward saves time and takes memory. What is
tried: of each way, the fastest way first, the largest size that may fit and smaller ones, until a smaller one is slower.
"""

from collections.abc import Callable, Iterable, Sequence

from adam.contract.records import Fitted

MARGIN = 0.03  # of the room: what lies between allocations, and what a validation takes
AS_FAST = 1.01  # times that are apart by less are the same; the smaller peak is then taken
SMALL_BUFFERS = 2 << 30  # bytes that snapshots take where there is no room for a whole copy
COPY_WORTH = (
    1.02  # without it a snapshot costs four times as much, so that fewer are taken: steps done again after a death
)

Measure = Callable[[int, str], Fitted]


def sizes(batch_size: int, most: int) -> list[int]:
    """The divisors of `batch_size` that are at most `most`, the largest first."""
    return [size for size in range(min(batch_size, most), 0, -1) if batch_size % size == 0]


def search(
    candidates: Sequence[int],
    ways: Iterable[str],
    measure: Measure,
    fit: Callable[[Fitted], bool],
    more: Callable[[], bool],
) -> list[Fitted]:
    """What was measured, in that order.

    candidates: sizes, the largest first. ways: as `memory.ways`; the last is only tried where nothing else fits, if there are several.
    fit: whether it may be chosen. more: False where there is no time for another one; the first that fits is still looked for.
    """
    found: list[Fitted] = []
    *first, last = ways
    for again in (*first, last):
        fitting = [one for one in found if fit(one)]
        if first and again == last and fitting:
            break
        before: Fitted | None = None
        for size in candidates:
            if not more() and any(map(fit, found)):
                break
            one = measure(size, again)
            found.append(one)
            if not fit(one):
                continue
            if before is not None and one.seconds > before.seconds:
                break
            before = one
    return found


def fits(one: Fitted, room: int, more: int) -> bool:
    """True where it was done, and fits beside `more` bytes."""
    return one.seconds > 0 and one.peak + more + MARGIN * room <= room


def below(one: Fitted, most: int, failed: Sequence[Fitted]) -> bool:
    """True where the plan allows it, and less memory is taken than by what has failed in training."""
    return one.micro_batch <= most and all(one.peak < other.peak for other in failed)


def pick(found: Iterable[Fitted], room: int, copy: int, most: int, failed: Sequence[Fitted] = ()) -> Fitted | None:
    """The fastest that fits; None: none does.

    room: bytes that training may take. copy: bytes of a snapshot's copy on the device; without room for it snapshots go through
    small buffers, which is charged as COPY_WORTH. most: samples at once. failed: ran out of memory in training.
    """
    costs = {
        one: one.seconds * (1.0 if fits(one, room, copy) else COPY_WORTH)
        for one in found
        if below(one, most, failed) and fits(one, room, min(copy, SMALL_BUFFERS))
    }
    if not costs:
        return None
    bound = AS_FAST * min(costs.values())
    return min((one for one, cost in costs.items() if cost <= bound), key=lambda one: (one.peak, one.seconds))
