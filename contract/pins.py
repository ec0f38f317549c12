"""Who wants which checkpoint kept: pins, which outlive everybody, and holds, which last as long as their process.

    checkpoints/pins.json    checkpoint -> requesters ("human", …); changed under a lock on checkpoints/

The keeper locks a checkpoint before it deletes it, and reads the pins under that lock; a pin is written while the checkpoint
is held. So a pin that was written is a checkpoint that is there.
"""

import fcntl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from adam.contract import schema
from adam.contract.checkpoints import MANIFEST
from adam.contract.clock import Stamp, stamp
from adam.contract.errors import CheckpointError, DataError
from adam.contract.flock import flocked
from adam.contract.paths import RunPaths
from adam.contract.schema import Record

Wanted = dict[str, tuple[str, ...]]  # checkpoint -> requesters, none of them empty


class Pins(Record, frozen=True, kw_only=True):
    """`checkpoints/pins.json` (writers: adamctl, one at a time)."""

    pins: Wanted = {}
    stamp: Stamp | None = None


def read_pins(paths: RunPaths) -> Wanted:
    """What is pinned. Raises DataError, SchemaError where that can't be known: then nothing may be deleted."""
    todo = "mend it, or remove it and pin again"
    try:
        pins = schema.load(paths.pins, Pins)
    except DataError as error:
        raise DataError(str(error), todo) from None
    except OSError as error:
        raise DataError(f"{paths.pins} can't be read: {error.strerror}", todo) from None
    return pins.pins if pins else {}


def with_pin(pins: Wanted, name: str, requester: str) -> Wanted:
    return {**pins, name: tuple(sorted({*pins.get(name, ()), requester}))}


def without_pin(pins: Wanted, name: str, requester: str) -> Wanted:
    left = tuple(other for other in pins.get(name, ()) if other != requester)
    others = {key: value for key, value in pins.items() if key != name}
    return {**others, name: left} if left else others


def change_pins(paths: RunPaths, change: Callable[[Wanted], Wanted]) -> Wanted:
    """Read, change and replace `pins.json` under a lock, so that nobody's change is lost. Errors as `read_pins`."""
    with flocked(paths.checkpoints, fcntl.LOCK_EX):
        pins = change(read_pins(paths))
        schema.save(paths.pins, Pins(pins=pins, stamp=stamp()))
    return pins


@contextmanager
def held(checkpoint: Path) -> Iterator[None]:
    """The keeper does not delete the checkpoint while this lasts. Raises CheckpointError where there is none (any more)."""
    gone = CheckpointError(f"there is no checkpoint {checkpoint}, or no longer", "see `adamctl checkpoints`")
    with ExitStack() as stack:
        try:
            stack.enter_context(flocked(checkpoint, fcntl.LOCK_SH))
        except (FileNotFoundError, NotADirectoryError):
            raise gone from None
        if not (checkpoint / MANIFEST).exists():
            raise gone
        yield
