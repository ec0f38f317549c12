"""From a snapshot or a checkpoint back into model, optimizer and random generators; every byte is checked before it is trusted.

A checkpoint may have been written by another number of ranks: each tensor is put together from the parts that overlap what this
rank holds.
"""

from pathlib import Path

import msgspec
import torch
from safetensors import safe_open
from torch import Tensor

from adam.contract.checkpoints import rank_file, verify
from adam.contract.errors import CheckpointError, ConfigError, DataError
from adam.contract.slots import Part, SlotHead, read_head
from adam.contract.snapshots import read_snapshot
from adam.contract.sums import check_sums
from adam.trainer.model.lm import MambaLM
from adam.trainer.optim import set_step
from adam.trainer.snapshot import Identity, Position
from adam.trainer.state import own_part, trained_state
from adam.trainer.sums import all_sums

STAGE_BYTES = 256 << 20


class Stored(msgspec.Struct, frozen=True):
    """The rank files of one snapshot and what they say."""

    files: list[Path]
    heads: list[SlotHead]


def restore(
    directory: Path, model: MambaLM, optimizer: torch.optim.AdamW, expected: Identity, *, committed: bool
) -> Position:
    """Fill model, moments and random generators from a checkpoint, or from a slot where it is not `committed`.

    Raises CheckpointError (not whole, not the bytes that were written), ConfigError (another model), DataError (other data).
    """
    stored = _open(directory, committed=committed)
    head = stored.heads[0]
    _check_belongs(directory, head, expected)
    # A checkpoint's bytes were just checked; a slot's are checked where they arrive, which on a GPU costs nothing.
    check = not committed
    if check and head.world != expected.world:
        for path, own in zip(stored.files, stored.heads, strict=True):
            check_sums(path, own, (read_head(path) or (own, {}))[1])
        check = False
    filled: dict[str, Tensor] = {}
    for name, tensor in trained_state(model, optimizer):
        filled[name], part = own_part(tensor)
        _fill(name, filled[name], part, stored)
    if check:
        _check_arrival(filled, stored.heads[expected.rank], directory)
    _restore_random(stored, expected.rank)
    set_step(optimizer, head.step)
    return Position(step=head.step, samples=head.samples, tokens=head.tokens)


def _open(directory: Path, *, committed: bool) -> Stored:
    if committed:
        verify(directory)
        found = read_head(directory / rank_file(0))
        if found is None:
            raise CheckpointError(f"{directory / rank_file(0)} is missing or was never completed")
        files = [directory / rank_file(rank) for rank in range(found[0].world)]
    else:
        snapshot = read_snapshot(directory)
        if snapshot is None:
            raise CheckpointError(f"{directory} has no complete snapshot")
        files = snapshot.files
    heads = [read_head(path) for path in files]
    missing = [path for path, head in zip(files, heads, strict=True) if head is None]
    if missing:
        raise CheckpointError(f"{missing[0]} is missing or was never completed")
    return Stored(files, [head[0] for head in heads if head is not None])


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


def _fill(name: str, target: Tensor, part: Part | None, stored: Stored) -> None:
    """Copy into `target` (whole, or the rows of `part`) from whichever files have them."""
    whole = part.shape if part else tuple(target.shape)
    first = part.start if part else 0
    rows = target.shape[0] if target.dim() else 0
    filled = 0
    for path, head in zip(stored.files, stored.heads, strict=True):
        with safe_open(path, framework="pt") as file:
            if name not in file.keys():  # noqa: SIM118 - not a dict
                raise CheckpointError(f"{path} has no tensor {name}")
            view = file.get_slice(name)
            theirs = head.parts.get(name)
            shape = tuple(view.get_shape())
            if (theirs.shape if theirs else shape) != whole:
                raise CheckpointError(f"{path}: {name} is {theirs.shape if theirs else shape}, the model has {whole}")
            if not target.dim():
                copy_into(target, file.get_tensor(name))
                return
            start = theirs.start if theirs else 0
            low, high = max(first, start), min(first + rows, start + shape[0])
            if low < high:
                copy_into(target[low - first : high - first], view[low - start : high - start])
                filled += high - low
        if theirs is None:
            break  # each rank has all of it
    if filled != rows:
        raise CheckpointError(f"{stored.files[0].parent}: {name} has {filled} of {rows} rows")


def copy_into(target: Tensor, source: Tensor) -> None:
    """Copy, exactly; to a GPU through pinned memory, in turns of two, so that reading and sending overlap."""
    if target.dtype != source.dtype:
        raise CheckpointError(f"a stored tensor is {source.dtype}, the model has {target.dtype}")
    if target.device.type == "cpu" or source.nbytes < STAGE_BYTES // 16:
        target.copy_(source)
        return
    into, data = target.reshape(-1), source.reshape(-1)
    length = STAGE_BYTES // data.element_size()
    stages = [torch.empty(length, dtype=data.dtype, pin_memory=True) for _ in range(2)]
    sent = [torch.cuda.Event(), torch.cuda.Event()]
    for number, begin in enumerate(range(0, data.numel(), length)):
        stage, event = stages[number % 2], sent[number % 2]
        event.synchronize()
        size = min(length, data.numel() - begin)
        stage[:size].copy_(data[begin : begin + size])
        into[begin : begin + size].copy_(stage[:size], non_blocking=True)
        event.record()
    torch.cuda.current_stream().synchronize()


def _check_arrival(tensors: dict[str, Tensor], head: SlotHead, place: Path) -> None:
    for name, found in zip(tensors, all_sums(list(tensors.values())), strict=True):
        if found != head.sums.get(name):
            raise CheckpointError(f"{place}: the bytes of {name} are not those that were written")


def _restore_random(stored: Stored, rank: int) -> None:
    """The generators of this rank, or those of rank 0 where there was no such rank."""
    path, head = (
        (stored.files[rank], stored.heads[rank]) if rank < len(stored.files) else (stored.files[0], stored.heads[0])
    )
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        for name, put in (("rng.cpu", torch.set_rng_state), ("rng.cuda", torch.cuda.set_rng_state)):
            # A run may move between a GPU box and one without: only the generator of the device that is there matters.
            if name in names and (name == "rng.cpu" or torch.cuda.is_available()):
                state = file.get_tensor(name)
                _check_arrival({name: state}, head, path)
                put(state)
