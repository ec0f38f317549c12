"""What is wrong with a run's losses: numbers that are not finite, spikes, divergence, stagnation. Pure: rows in, a finding out.

not finite   a loss or gradient that is NaN or infinite (the trainer ends itself then, and has changed nothing)
spike        9 of the last 10 losses lie far above the running median, or 3 in a row above ten times all that was seen lately
divergence   the mean of the last 50 losses lies above that of the losses -200 to -150, and so do their medians
stagnation   no mean of 50 losses was better than the best one for so many steps
corruption   the trainer computed the same twice, and it came out differently

A row costs O(log n); what is remembered is bounded by PAST rows. A step that is trained again takes the place of its first rows.
"""

import math
from bisect import bisect_left, insort
from collections import deque
from itertools import islice
from statistics import median
from typing import NamedTuple

import msgspec

from adam.contract.config import Numeric
from adam.contract.records import StepRow

PAST = 1024  # rows that are remembered, so that going back by as many leaves whole windows
WINDOW = 255  # of the running median
FEWEST = 64  # losses before a median means something: the first steps fall too fast
FAR = 5.0  # spreads above the median that make a loss high
SUSTAINED, OUT_OF = 9, 10
EXTREME, EXTREME_ROWS = 10.0, 3
LATE, EARLY_BEGIN, EARLY_END = 50, 200, 150  # the windows of the divergence rule
LARGEST = 1e6  # a loss counts as no more than this, so that the sums of windows stay exact enough
BETTER = 1e-3  # nats by which a mean must fall to be an improvement

NOT_FINITE, SPIKE, DIVERGENCE, STAGNATION = "not finite", "spike", "divergence", "stagnation"
CORRUPTION = "silent corruption"


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, in which updates, and the data positions that led there: first_sample <= position < end_sample."""

    kind: str
    attempt: int
    step: int  # the first update that went wrong
    found: int  # the update at which it was certain
    first_sample: int
    end_sample: int
    before: int  # where the data of the one update before them begin; first_sample where that is not known
    loss: float | None  # nats per token: the last, or the mean of the last ones; None: not finite
    usual: float | None  # what it was before; None: nothing is known of before

    @property
    def text(self) -> str:
        """For people: `spike from step 120 to 129: loss 9.31, 2.47 before`."""
        where = f"at step {self.step}" if self.step == self.found else f"from step {self.step} to {self.found}"
        if self.kind == CORRUPTION:
            return f"step {self.found} was computed twice and came out differently; up to step {self.step - 1} all is known to be right"
        now = "not finite" if self.loss is None else f"{self.loss:.4g}"
        before = "" if self.usual is None else f", {self.usual:.4g} before"
        if self.kind != NOT_FINITE:
            return f"{self.kind} {where}: loss {now}{before}"
        known = f" (loss {now}{before})" if self.loss is not None or before else ""
        return f"loss or gradient not finite {where}{known}"


class _Row(NamedTuple):
    step: int
    first: int
    end: int
    loss: float
    high: bool
    extreme: bool


class Detector:
    """Hears the rows of a run in the order in which they were logged. `trouble` is what is wrong with the newest attempt."""

    def __init__(self, rules: Numeric) -> None:
        self.rules = rules
        self.trouble: Trouble | None = None
        self._past: deque[_Row] = deque(maxlen=PAST)
        self._sorted: list[float] = []  # the losses of the last WINDOW rows
        self._late = self._early = 0.0  # sums
        self._best, self._best_step = math.inf, 0

    def hear(self, row: StepRow) -> None:
        """One row of `steps.jsonl`. After a finding the rest of its attempt says no more."""
        if self.trouble is not None and row.attempt > self.trouble.attempt:
            if self.trouble.kind == STAGNATION:  # somebody wants it to go on: for as long again
                self._best, self._best_step = math.inf, row.step
            self.trouble = None
        if self.trouble is not None:
            return
        if self._past and row.step <= self._past[-1].step:
            self._go_back(row.step)
        if row.sound is not None:
            self.trouble = self._corruption(row, row.sound)
            return
        if row.loss is None or row.grad_norm is None:
            self.trouble = self._not_finite(row)
            return
        self._add(row, min(row.loss, LARGEST))
        self.trouble = self._spike(row) or self._divergence(row) or self._stagnation(row)

    def _go_back(self, step: int) -> None:
        """Forget the rows from `step` on: they are trained again."""
        while self._past and self._past[-1].step >= step:
            self._past.pop()
        losses = [row.loss for row in self._past]
        self._sorted = sorted(losses[-WINDOW:])
        self._late, self._early = math.fsum(losses[-LATE:]), math.fsum(losses[-EARLY_BEGIN:-EARLY_END])
        if self._best_step >= step:
            self._best, self._best_step = math.inf, step

    def _add(self, row: StepRow, loss: float) -> None:
        high, extreme = self._judge(loss)
        past = self._past
        if len(past) >= WINDOW:
            del self._sorted[bisect_left(self._sorted, past[-WINDOW].loss)]
        insort(self._sorted, loss)
        past.append(_Row(row.step, row.first_sample, row.end_sample, loss, high, extreme))
        self._late += loss - (past[-LATE - 1].loss if len(past) > LATE else 0.0)
        if len(past) > EARLY_END:
            self._early += past[-EARLY_END - 1].loss
        if len(past) > EARLY_BEGIN:
            self._early -= past[-EARLY_BEGIN - 1].loss

    def _judge(self, loss: float) -> tuple[bool, bool]:
        """(high, extreme) among the losses before it."""
        known = self._sorted
        rise = self.rules.spike_rise
        if not rise or len(known) < FEWEST:
            return False, False
        usual = known[len(known) // 2]
        if loss - usual <= rise:
            return False, False
        # The third largest: two extreme ones before it must not hide it.
        return loss - usual > FAR * spread(known), loss > EXTREME * known[-EXTREME_ROWS]

    def _spike(self, row: StepRow) -> Trouble | None:
        past = self._past
        if not past[-1].high:
            return None
        last = [past[-number] for number in range(1, min(OUT_OF, len(past)) + 1)]
        extreme = all(item.extreme for item in last[:EXTREME_ROWS])
        if not extreme and sum(item.high for item in last) < SUSTAINED:
            return None
        number = max(place for place, item in enumerate(last) if item.high)
        return self._since(SPIKE, row, number, past[-1].loss, self._sorted[len(self._sorted) // 2])

    def _divergence(self, row: StepRow) -> Trouble | None:
        rules, past = self.rules, self._past
        if not rules.divergence_rise or row.step <= rules.divergence_from or len(past) < EARLY_BEGIN:
            return None
        late, early = self._late / LATE, self._early / (EARLY_BEGIN - EARLY_END)
        if late - early <= rules.divergence_rise:
            return None
        losses = [item.loss for item in islice(past, len(past) - EARLY_BEGIN, None)]
        # One wild loss moves a mean, and no median.
        if median(losses[-LATE:]) - median(losses[: EARLY_BEGIN - EARLY_END]) <= rules.divergence_rise:
            return None
        return self._since(DIVERGENCE, row, LATE - 1, late, early)

    def _stagnation(self, row: StepRow) -> Trouble | None:
        if not self.rules.stagnation_steps or len(self._past) < LATE:
            return None
        mean = self._late / LATE
        if mean < self._best - BETTER:
            self._best, self._best_step = mean, row.step
        if row.step - self._best_step < self.rules.stagnation_steps:
            return None
        found = self._since(STAGNATION, row, 0, mean, self._best)
        return msgspec.structs.replace(found, step=self._best_step)

    def _since(self, kind: str, row: StepRow, number: int, loss: float, usual: float) -> Trouble:
        """Trouble that began with the row `number` places before the last: in what was not logged before it, if anything."""
        past = self._past
        bad = past[-1 - number]
        before = past[-2 - number] if len(past) > number + 1 else None
        return Trouble(
            kind=kind,
            attempt=row.attempt,
            step=before.step + 1 if before else bad.step,
            found=row.step,
            first_sample=before.end if before else bad.first,
            end_sample=row.end_sample,
            before=before.first if before else bad.first,
            loss=loss,
            usual=usual,
        )

    def _corruption(self, row: StepRow, sound: int) -> Trouble:
        """No data are to blame for it."""
        at = row.first_sample
        return Trouble(
            kind=CORRUPTION,
            attempt=row.attempt,
            step=sound + 1,
            found=row.step,
            first_sample=at,
            end_sample=at,
            before=at,
            loss=None,
            usual=None,
        )

    def _not_finite(self, row: StepRow) -> Trouble:
        before = self._past[-1] if self._past and self._past[-1].step == row.step - 1 else None
        return Trouble(
            kind=NOT_FINITE,
            attempt=row.attempt,
            step=row.step,
            found=row.step,
            first_sample=row.first_sample,
            end_sample=row.end_sample,
            before=before.first if before else row.first_sample,
            loss=row.loss,
            usual=self._sorted[len(self._sorted) // 2] if self._sorted else None,
        )


def spread(known: list[float]) -> float:
    """How far ordinary losses lie from their median: the larger of the normal deviation that the MAD stands for, and the upper tenth.

    The second counts where a share of all batches is of a harder kind. `known` is sorted.
    """
    usual = known[len(known) // 2]
    return max(1.4826 * mad(known), known[(9 * len(known)) // 10] - usual)


def mad(known: list[float]) -> float:
    """The (upper) median of the distances of sorted numbers from their (upper) median, in O(log n)."""
    middle = len(known) // 2
    usual = known[middle]
    below, above = (
        middle + 1,
        len(known) - middle - 1,
    )  # distances usual - known[middle - i], known[middle + 1 + i] - usual
    wanted = middle + 1  # this many distances are no larger than the answer
    low, high = max(0, wanted - above), min(below, wanted)
    while low < high:  # the least number to take from below so that the rest comes from above
        taken = (low + high) // 2
        if usual - known[middle - taken] < known[middle + wanted - taken] - usual:
            low = taken + 1
        else:
            high = taken
    from_below = usual - known[middle - low + 1] if low else 0.0
    from_above = known[middle + wanted - low] - usual if wanted > low else 0.0
    return max(from_below, from_above)
