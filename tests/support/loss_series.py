"""Made-up losses of healthy training, and troubles that are put into them. Seeded: a seed gives a series again."""

from collections.abc import Iterator

import msgspec
import numpy as np
import numpy.typing as npt

from adam.contract.records import StepRow
from adam.watchdog.detect import Detector, Trouble

Losses = npt.NDArray[np.float64]
BATCH = 4
ROW = StepRow(
    attempt=1, step=0, tokens=0, first_sample=0, end_sample=0, loss=0.0, grad_norm=1.0, lr=1e-3, step_s=1.0, data_wait_s=0.0,
    wall=0.0, boottime=0.0,
)  # fmt: skip


def trend(steps: int, start: float = 11.0, floor: float = 2.3) -> Losses:
    """The fall of a language model's loss: fast in the first hundreds of steps, then as a power of the steps."""
    return floor + (start - floor) * (1 + np.arange(steps) / 30.0) ** -0.5


def healthy(rng: np.random.Generator, steps: int, noise: str, width: float) -> Losses:
    """`trend` with noise of a kind in NOISE; `width`: nats of its middle part."""
    return np.maximum(trend(steps) + NOISE[noise](rng, steps, width), 0.01)


def _normal(rng: np.random.Generator, steps: int, width: float) -> Losses:
    return rng.normal(0, width, steps)


def _heavy(rng: np.random.Generator, steps: int, width: float) -> Losses:
    """Student's t with two degrees of freedom has no variance. No text costs 25 nats a token more than others."""
    return np.clip(width * rng.standard_t(2, steps), -25, 25)


def _mixed(rng: np.random.Generator, steps: int, width: float) -> Losses:
    """A fifth of the batches is of a harder kind by one nat."""
    return rng.normal(0, width, steps) + (rng.random(steps) < 0.2)


def _wild(rng: np.random.Generator, steps: int, width: float) -> Losses:
    """Every 30th batch is broken text, up to eight nats above the others."""
    return rng.normal(0, width, steps) + (rng.random(steps) < 1 / 30) * rng.uniform(1, 8, steps)


def _slow(rng: np.random.Generator, steps: int, width: float) -> Losses:
    """Neighbours are alike: a walk that is pulled back, as where documents lie side by side."""
    steps_of_walk = rng.normal(0, width * np.sqrt(1 - 0.98**2), steps)
    walk, at = np.empty(steps), 0.0
    for number, step in enumerate(steps_of_walk):
        at = 0.98 * at + step
        walk[number] = at
    return walk + rng.normal(0, width / 2, steps)


NOISE = {"normal": _normal, "heavy": _heavy, "mixed": _mixed, "wild": _wild, "slow": _slow}


def rows(losses: Losses, attempt: int = 1, after: int = 0, every: int = 1) -> Iterator[StepRow]:
    """A row for each loss, of the steps behind `after`; `every`: updates between two rows."""
    fields = msgspec.structs.asdict(ROW)
    for number, loss in enumerate(losses.tolist(), start=1):
        step = after + number * every
        fields.update(attempt=attempt, step=step, first_sample=BATCH * (step - 1), end_sample=BATCH * step, loss=loss)
        yield StepRow(**fields)


def first_trouble(detector: Detector, losses: Losses) -> Trouble | None:
    for row in rows(losses):
        detector.hear(row)
        if detector.trouble is not None:
            return detector.trouble
    return None
