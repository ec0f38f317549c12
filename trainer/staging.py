"""Where the slots lie, and their making. Rank 0 chooses for all ranks, and a place is good only where all ranks have theirs.

Slots lie in shared memory where there is room: they outlive the trainer, and are taken every few steps. Else they are staged on the
checkpoints' disk, where the same code writes them, only when a checkpoint is due.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from adam.contract.checkpoints import rank_file
from adam.contract.durable import remove_tree
from adam.contract.errors import CheckpointError, DiskError
from adam.contract.paths import RunPaths
from adam.contract.ram import FEWEST_SLOTS, SLOTS, claim, hold, no_room
from adam.contract.slots import SlotHead, SlotWriter, TensorEntry, TensorPlace, read_head
from adam.contract.snapshots import SLOTS as SLOT_PATTERN
from adam.contract.snapshots import slot_path
from adam.trainer.ranks import Ranks


class Slot:
    """A slot as this rank sees it: its own file, and tensors over the memory of it."""

    def __init__(self, path: Path, entries: list[TensorEntry], rank: int) -> None:
        path.mkdir(exist_ok=True)
        file = path / rank_file(rank)
        found = _read(file)
        head = found[0] if found else None
        self.order, self.why, self._step, self._durable = (0, 0), "", 0, False  # (0, 0): nothing that anybody wants
        if head is not None:
            self.holds(head)
        self.writer = SlotWriter(file, entries)
        self.payload = torch.frombuffer(self.writer.payload(), dtype=torch.uint8)

    def holds(self, head: SlotHead) -> None:
        """This snapshot is in it now."""
        self.order, self.why = (head.attempt, head.sequence), head.why
        self._step, self._durable = head.step, head.durable

    def owed(self, attempt: int, committed: int) -> bool:
        """True where it has a snapshot of `attempt` that is to be a checkpoint and, as far as `committed` (a step) tells, is none yet."""
        return self._durable and self.order[0] == attempt and self._step > committed

    def put(self, name: str, tensor: Tensor) -> None:
        """A small tensor of the host's memory."""
        first, end = self.writer.span(name)
        self.payload[first:end].copy_(tensor)

    def close(self) -> None:
        del self.payload
        self.writer.close()

    def give_up(self) -> None:
        """Close it, and keep nothing of it but a snapshot that was there before."""
        if self.order == (0, 0):
            with suppress(OSError):  # it is written over when there are slots again, and means nothing until then
                self.writer.path.unlink(missing_ok=True)
        self.close()


def _read(file: Path) -> tuple[SlotHead, dict[str, TensorPlace]] | None:
    try:
        return read_head(file)
    except CheckpointError:
        return None


class SlotMaker:
    """Makes the slots of this rank; all ranks ask for the same at the same time.

    Args:
        entries: the tensors of this rank's files.
    """

    def __init__(self, paths: RunPaths, entries: list[TensorEntry], rank: int, world: int) -> None:
        self._paths, self._entries, self._rank, self._world = paths, entries, rank, world
        self._ranks = Ranks()
        self._hold: int | None = None
        self.foreign: set[Path] = set()  # slots that another number of ranks wrote, and that are needed for now

    def make(self, *, in_ram: bool) -> tuple[list[Slot], str]:
        """(slots, why there are none on any rank)."""
        numbers, why = self._ranks.all(self._choose(in_ram=in_ram))[0]
        if why:
            return [], why
        made: list[Slot] = []
        place = self._paths.ram if in_ram else self._paths.staging
        try:
            for number in numbers:
                made.append(Slot(slot_path(place, number), self._entries, self._rank))
        except (DiskError, OSError) as error:
            why = str(error)
        refused = [f"rank {rank}: {why}" if rank else why for rank, why in enumerate(self._ranks.all(why)) if why]
        if not refused:
            return made, ""
        for slot in made:
            slot.give_up()
        return [], refused[0]

    def let_go(self) -> None:
        """The directory in memory is no longer used by this process."""
        if self._hold is not None:
            os.close(self._hold)
            self._hold = None

    def drop_foreign(self) -> None:
        """There is a newer snapshot now. What can't be deleted is left to the keeper, when it settles."""
        while self.foreign:
            shutil.rmtree(self.foreign.pop(), ignore_errors=True)

    def _choose(self, *, in_ram: bool) -> tuple[list[int], str]:
        """(numbers of the slots to make, why none): what rank 0 says."""
        if self._rank:
            return [], ""
        try:
            return self._numbers_in_ram() if in_ram else (self._numbers_on_disk(), "")
        except (DiskError, OSError) as error:
            return [], str(error)

    def _numbers_on_disk(self) -> list[int]:
        self._paths.staging.mkdir(parents=True, exist_ok=True)
        return self._usable(self._paths.staging)[:FEWEST_SLOTS]

    def _numbers_in_ram(self) -> tuple[list[int], str]:
        usable = self._usable(self._paths.ram)
        size = sum(entry.nbytes for entry in self._entries) * self._world
        for count in (SLOTS, FEWEST_SLOTS):
            slots = [slot_path(self._paths.ram, number) for number in usable[:count]]
            there = sum(file.stat().st_blocks * 512 for slot in slots for file in slot.glob("*.safetensors"))
            why = no_room(max(0, count * size - there))
            if not why:
                self.let_go()
                self._hold = hold(claim(self._paths))
                return usable[:count], ""
        return [], why

    def _usable(self, place: Path) -> list[int]:
        """Numbers of slots that may be written. A slot that another number of ranks wrote would lose its snapshot by being made
        again: the newest of them stays for now, the others are deleted."""
        foreign = {slot: order for slot in place.glob(SLOT_PATTERN) if (order := self._foreign_order(slot))}
        newest = max(foreign, key=lambda slot: foreign[slot], default=None)
        for slot in foreign:
            if slot != newest:
                remove_tree(slot)
        if newest:
            self.foreign.add(newest)
        return [number for number in range(SLOTS + 1) if slot_path(place, number) != newest]

    def _foreign_order(self, slot: Path) -> tuple[int, int] | None:
        """Which snapshot of another layout a slot has; None: it has none."""
        found = _read(slot / rank_file(0))
        if found is None:
            return None
        head, places = found
        if head.world == self._world and [place.entry for place in places.values()] == self._entries:
            return None
        return head.attempt, head.sequence
