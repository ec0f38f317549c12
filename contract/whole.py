"""The whole tensors of a checkpoint, whatever rank files they are spread over. No torch: only where their bytes are."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from adam.contract.checkpoints import rank_file
from adam.contract.errors import CheckpointError
from adam.contract.slots import SlotHead, TensorEntry, TensorPlace, read_head


class Piece(msgspec.Struct, frozen=True):
    """Bytes `start` to `end` of a file."""

    path: Path
    start: int
    end: int


class Whole(msgspec.Struct, frozen=True):
    """A tensor; its bytes are those of its pieces, one behind the other."""

    entry: TensorEntry
    pieces: tuple[Piece, ...]

    def blocks(self, size: int) -> Iterator[bytes]:
        """Its bytes, `size` at a time; each piece ends a block."""
        for piece in self.pieces:
            with piece.path.open("rb") as file:
                file.seek(piece.start)
                left = piece.end - piece.start
                while left > 0:
                    block = file.read(min(size, left))
                    if not block:
                        raise CheckpointError(f"{piece.path} ends before byte {piece.end}")
                    left -= len(block)
                    yield block


class RankFile(msgspec.Struct, frozen=True):
    path: Path
    head: SlotHead
    places: dict[str, TensorPlace]


def whole_tensors(checkpoint: Path) -> tuple[SlotHead, dict[str, Whole]]:
    """(the head of rank 0, its tensors by name, put together from all ranks) of a checkpoint that was verified.

    Raises CheckpointError where a part is missing.
    """
    first = _rank(checkpoint, 0)
    ranks = [first, *(_rank(checkpoint, rank) for rank in range(1, first.head.world))]
    return first.head, {name: _whole(name, ranks) for name in first.places}


def _rank(checkpoint: Path, rank: int) -> RankFile:
    path = checkpoint / rank_file(rank)
    found = read_head(path)
    if found is None:
        raise CheckpointError(f"{path} is missing or was never completed")
    return RankFile(path, *found)


def _whole(name: str, ranks: list[RankFile]) -> Whole:
    """Each rank has all of a tensor, or its own rows of it; some have no rows."""
    place, part = ranks[0].places[name], ranks[0].head.parts.get(name)
    if part is None:
        return Whole(place.entry, (Piece(ranks[0].path, place.start, place.end),))
    owners = [rank for rank in ranks if name in rank.places and name in rank.head.parts]
    pieces, rows = [], 0
    for rank in sorted(owners, key=lambda rank: rank.head.parts[name].start):
        place = rank.places[name]
        if place.entry.shape[0]:
            if rank.head.parts[name].start != rows:
                break
            pieces.append(Piece(rank.path, place.start, place.end))
            rows += place.entry.shape[0]
    if rows != part.shape[0]:
        raise CheckpointError(
            f"{ranks[0].path.parent}: {name} has {rows} of {part.shape[0]} rows, the next are missing"
        )
    return Whole(TensorEntry(name, place.entry.dtype, part.shape), tuple(pieces))
