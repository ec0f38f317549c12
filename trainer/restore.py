"""From a snapshot or a checkpoint back into model, optimizer and random generators; every byte is checked before it is trusted.

A checkpoint may have been written by another number of ranks: each tensor is put together from the parts that overlap what this
rank holds.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from adam.contract.checkpoints import rank_file, verify
from adam.contract.errors import CheckpointError, ConfigError, DataError
from adam.contract.slots import Part, SlotHead, TensorPlace, read_head
from adam.contract.snapshots import read_snapshot
from adam.contract.sums import check_sums
from adam.trainer.feeding import Feeder, read_into
from adam.trainer.model.lm import MambaLM
from adam.trainer.optim import set_step
from adam.trainer.ranks import Ranks
from adam.trainer.snapshot import DTYPES, Identity, Position
from adam.trainer.state import own_part, trained_state
from adam.trainer.sums import all_sums

MOST_PARTS = 16  # of 64 MB, that are asked for ahead: what is read is told by a beat


class Stored:
    """The file of one rank, open."""

    def __init__(self, path: Path) -> None:
        found = read_head(path)
        if found is None:
            raise CheckpointError(f"{path} is missing or was never completed")
        self.path, (self.head, self._places) = path, found
        self._file = path.open("rb", buffering=0)
        self.number = self._file.fileno()

    def place(self, name: str) -> TensorPlace:
        try:
            return self._places[name]
        except KeyError:
            raise CheckpointError(f"{self.path} has no tensor {name}") from None

    def shape(self, name: str) -> tuple[int, ...]:
        return self.place(name).entry.shape

    def first(self, name: str, dtype: torch.dtype) -> int:
        """Where the bytes of a tensor begin in the file. Raises CheckpointError where it has another dtype."""
        place = self.place(name)
        if place.entry.dtype != DTYPES[dtype]:
            raise CheckpointError(f"{self.path}: {name} is {place.entry.dtype}, the model has {DTYPES[dtype]}")
        return place.start

    def check(self) -> None:
        check_sums(self.path, self.head, self._places)

    def close(self) -> None:
        self._file.close()


def restore(
    directory: Path,
    model: MambaLM,
    optimizer: torch.optim.AdamW,
    expected: Identity,
    *,
    committed: bool,
    beat: Callable[[], None] = lambda: None,
) -> Position:
    """Fill model, moments and random generators from a checkpoint, or from a slot where it is not `committed`.

    `beat` is called all along: a disk may take minutes for all of it.

    Raises CheckpointError (not whole, not the bytes that were written), ConfigError (another model), DataError (other data).
    What one rank finds wrong, all raise: whichever's end is reported says why.
    """
    wrong = ""
    try:
        position = _restore(directory, model, optimizer, expected, committed=committed, beat=beat)
    except CheckpointError as error:
        wrong = str(error)
    found = [text for text in Ranks().all(wrong) if text]
    if found:
        raise CheckpointError(wrong or found[0])
    return position


def _restore(
    directory: Path,
    model: MambaLM,
    optimizer: torch.optim.AdamW,
    expected: Identity,
    *,
    committed: bool,
    beat: Callable[[], None],
) -> Position:
    stored = _open(directory, committed=committed, beat=beat)
    try:
        return _fill_all(directory, model, optimizer, expected, stored, committed=committed, beat=beat)
    except (OSError, EOFError) as error:
        raise CheckpointError(f"{directory} can't be read: {error}") from None
    finally:
        for file in stored:
            file.close()


def _fill_all(
    directory: Path,
    model: MambaLM,
    optimizer: torch.optim.AdamW,
    expected: Identity,
    stored: list[Stored],
    *,
    committed: bool,
    beat: Callable[[], None],
) -> Position:
    head = stored[0].head
    _check_belongs(directory, head, expected)
    wanted = {name: own_part(tensor) for name, tensor in trained_state(model, optimizer)}
    own = _written_alike(stored, expected, {name: part for name, (_, part) in wanted.items() if part})
    # A checkpoint's bytes were just checked; a slot's are checked where they arrive, which on a GPU costs nothing.
    if not committed and own is None:
        for file in stored:
            file.check()
            beat()
    with Feeder(device=next(model.parameters()).device.type) as feed:
        for name, (target, part) in wanted.items():
            _fill(name, target, part, stored, feed)
            feed.wait(MOST_PARTS)
            beat()
        feed.finish()
    if not committed and own is not None:
        _check_arrival({name: target for name, (target, _) in wanted.items()}, own)
    _restore_random(own or stored[0])
    set_step(optimizer, head.step)
    return Position(step=head.step, samples=head.samples, tokens=head.tokens)


def _open(directory: Path, *, committed: bool, beat: Callable[[], None]) -> list[Stored]:
    """The files of all ranks that wrote it."""
    if committed:
        verify(directory, lambda _: beat())
        first = Stored(directory / rank_file(0))
        return [first, *(Stored(directory / rank_file(rank)) for rank in range(1, first.head.world))]
    snapshot = read_snapshot(directory)
    if snapshot is None:
        raise CheckpointError(f"{directory} has no complete snapshot")
    return [Stored(path) for path in snapshot.files]


def _check_belongs(directory: Path, head: SlotHead, expected: Identity) -> None:
    if head.config_digest != expected.config_digest:
        raise ConfigError(
            f"{directory} is of another model than adam.toml describes", "use the [model] that it was trained with"
        )
    if head.state.get("data_digest") != expected.data_digest:
        raise DataError(
            f"{directory} was trained on other tokens than are in tokens/",
            "use `adamctl fork` to go on with other data",
        )


def _written_alike(stored: list[Stored], expected: Identity, parts: dict[str, Part]) -> Stored | None:
    """The file that has just what this rank holds; None where the tensors were spread in another way."""
    if len(stored) != expected.world or stored[expected.rank].head.parts != parts:
        return None
    return stored[expected.rank]


def _fill(name: str, target: Tensor, part: Part | None, stored: list[Stored], feed: Feeder) -> None:
    """Copy into `target` (whole, or the rows of `part`) from whichever files have them."""
    whole = part.shape if part else tuple(target.shape)
    first, rows, filled = (part.start if part else 0), (target.shape[0] if target.dim() else 1), 0
    for file in stored:
        shape, theirs = file.shape(name), file.head.parts.get(name)
        if (theirs.shape if theirs else shape) != whole:
            raise CheckpointError(f"{file.path}: {name} is {theirs.shape if theirs else shape}, the model has {whole}")
        begin = file.first(name, target.dtype)
        if not target.dim():
            feed.copy(target, file.number, begin)
            return
        start = theirs.start if theirs else 0
        low, high = max(first, start), min(first + rows, start + shape[0])
        if low < high:
            row = target[0].nbytes
            feed.copy(target[low - first : high - first], file.number, begin + (low - start) * row)
            filled += high - low
        if theirs is None:
            break  # each rank has all of it
    if filled != rows:
        raise CheckpointError(f"{stored[0].path.parent}: {name} has {filled} of {rows} rows")


def _check_arrival(tensors: dict[str, Tensor], file: Stored) -> None:
    for name, found in zip(tensors, all_sums(list(tensors.values())), strict=True):
        if found != file.head.sums.get(name):
            raise CheckpointError(f"{file.path}: the bytes of {name} are not those that were written")


def _restore_random(file: Stored) -> None:
    """The generators of this rank, or those of rank 0 where there was another number of ranks."""
    for name, put in (("rng.cpu", torch.set_rng_state), ("rng.cuda", torch.cuda.set_rng_state)):
        # A run may move between a GPU box and one without: only the generator of the device that is there matters.
        if name in file.head.sums and (name == "rng.cpu" or torch.cuda.is_available()):
            state = torch.empty(file.shape(name), dtype=torch.uint8)
            read_into(state, file.number, file.first(name, torch.uint8))
            _check_arrival({name: state}, file)
            put(state)
