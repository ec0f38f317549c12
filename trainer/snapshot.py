"""Snapshots: the whole state of training, written into slots. The trainer only writes slots; the keeper makes checkpoints of them.

Slots lie in shared memory where there is room: they outlive the trainer, and are taken every few steps. Else they are staged on the
checkpoints' disk, where the same code writes them, only when a checkpoint is due.
"""

import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from adam.contract import schema
from adam.contract.checkpoints import rank_file
from adam.contract.errors import CheckpointError, DiskError
from adam.contract.paths import RunPaths
from adam.contract.ram import FEWEST_SLOTS, SLOTS, claim, no_room
from adam.contract.records import Staging
from adam.contract.slots import PADDING, Part, SlotHead, SlotWriter, TensorEntry, aligned, read_head
from adam.contract.snapshots import slot_path
from adam.contract.sums import page_sum
from adam.trainer.copying import Copier, Tensors, make_copier, register
from adam.trainer.model.lm import MambaLM
from adam.trainer.state import own_part, random_state, trained_state
from adam.trainer.sums import tensor_sum

RETRY_S = 30.0
PATIENCE_S = 2.0  # small slots are made before the first step
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float64: "F64", torch.int64: "I64", torch.uint8: "U8"}


class Position(msgspec.Struct, frozen=True):
    """Where training stands: all integers."""

    step: int = 0  # updates done
    samples: int = 0  # data position: the first that is not yet trained on
    tokens: int = 0  # trained on


class Identity(msgspec.Struct, frozen=True):
    """What a snapshot belongs to, the same for a whole attempt."""

    run: str
    attempt: int
    token: int
    parent: str
    fingerprint: str
    config_digest: str
    data_digest: str  # of the train tokens: a position means nothing in other data
    rank: int = 0
    world: int = 1


class Slot:
    """A slot as this rank sees it: its own file, and tensors over the memory of it."""

    def __init__(self, path: Path, entries: list[TensorEntry], rank: int, *, pin: bool) -> None:
        path.mkdir(exist_ok=True)
        file = path / rank_file(rank)
        head = _head_of(file)
        self.order = (head.attempt, head.sequence) if head else (0, 0)  # (0, 0): nothing that anybody wants
        self.durable = head is not None and head.durable
        self.writer = SlotWriter(file, entries)
        self.payload = torch.frombuffer(self.writer.payload(), dtype=torch.uint8)
        self._unpin = register(self.payload) if pin else None

    def put(self, name: str, tensor: Tensor) -> None:
        """A small tensor of the host's memory."""
        first, end = self.writer.span(name)
        self.payload[first:end].copy_(tensor)

    def close(self) -> None:
        if self._unpin is not None:
            self._unpin()
        del self.payload
        self.writer.close()


def _head_of(file: Path) -> SlotHead | None:
    try:
        found = read_head(file)
    except CheckpointError:
        return None
    return found[0] if found else None


class Snapshots:
    """Takes snapshots of one attempt.

    The slots are made by a thread, since allocating and pinning 33 GB takes ten seconds; until they are there, nothing is due.
    Where neither memory nor disk has room, training goes on, `trouble` says so, and it is tried again.
    """

    def __init__(
        self, paths: RunPaths, model: MambaLM, optimizer: torch.optim.AdamW, identity: Identity, *, use_ram: bool
    ) -> None:
        self._paths, self._identity = paths, identity
        self._use_ram = use_ram
        self._tensors: Tensors = {}
        self._parts: dict[str, Part] = {}
        for name, tensor in trained_state(model, optimizer):
            self._tensors[name], part = own_part(tensor)
            if part is not None:
                self._parts[name] = part
        stored = self._tensors | random_state()
        self._entries = aligned([TensorEntry(name, DTYPES[t.dtype], tuple(t.shape)) for name, t in stored.items()])
        self._padding = {e.name: page_sum([bytes(e.nbytes)]) for e in self._entries if e.name.startswith(PADDING)}
        self._pin = any(tensor.device.type == "cuda" for tensor in self._tensors.values())
        self._slots: list[Slot] = []
        self._copier: Copier | None = None
        self._pending: tuple[Slot, SlotHead] | None = None
        self._sequence = 0
        self.taken = self.durable = self.newest_step = self.saves = 0
        self.in_ram, self.trouble = False, ""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="slots")
        self._making: Future[None] | None = self._thread.submit(self._make_slots)
        self._again_at = 0.0
        wait([self._making], timeout=PATIENCE_S)

    @property
    def stall_s(self) -> float:
        """What the last snapshot cost training."""
        return self._copier.stall_s if self._copier else 0.0

    def _make_slots(self) -> None:
        """Slots in memory, else on disk, else none and the reason in `trouble`."""
        why = self._make_in_ram() if self._use_ram else "checkpoint.ram is off"
        self.in_ram, self.trouble = bool(self._slots), ""
        if not self._slots:
            try:
                self._paths.staging.mkdir(parents=True, exist_ok=True)
                self._make(self._paths.staging, FEWEST_SLOTS, pin=False)
            except (DiskError, OSError) as error:
                self.trouble = str(error)
        tier = "ram" if self.in_ram else "none" if self.trouble else "disk"
        size = self._slots[0].writer.size if self._slots else 0
        report = Staging(
            attempt=self._identity.attempt, tier=tier, why=self.trouble or why, slots=len(self._slots), slot_bytes=size
        )
        if self._identity.rank == 0:
            schema.save(self._paths.staging_report, report, durable=False)

    def _make_in_ram(self) -> str:
        """Why there are no slots in memory; empty: they are there."""
        size = sum(entry.nbytes for entry in self._entries) * self._identity.world
        there = sum(file.stat().st_blocks * 512 for file in self._paths.ram.rglob("*.safetensors"))
        fitting = next((n for n in (SLOTS, FEWEST_SLOTS) if not no_room(max(0, n * size - there))), 0)
        if not fitting:
            return no_room(max(0, FEWEST_SLOTS * size - there))
        try:
            self._make(claim(self._paths), fitting, pin=self._pin)
        except (DiskError, OSError) as error:
            return str(error)
        return ""

    def _make(self, place: Path, count: int, *, pin: bool) -> None:
        made: list[Slot] = []
        try:
            for number in range(count):
                made.append(Slot(slot_path(place, number), self._entries, self._identity.rank, pin=pin))
        except (DiskError, OSError):
            for slot in made:
                slot.close()
            raise
        self._slots = made

    def ready(self) -> bool:
        """True where there are slots now; a failure to make them is tried again after a while."""
        if self._making is not None and self._making.done():
            self._making.result()
            self._making = None
            self._again_at = time.monotonic() + RETRY_S
        if not self._slots and self._making is None and time.monotonic() >= self._again_at:
            self._making = self._thread.submit(self._make_slots)
        return self._making is None and bool(self._slots)

    def take(self, position: Position, *, why: str, saves: int, durable: bool) -> bool:
        """Begin a snapshot of now. False where that is not possible: slots are busy, missing, or the last is under way."""
        if not self.ready() or not self.poll():
            return False
        slot = self._free_slot()
        if slot is None:
            return False
        if self._copier is None:
            self._copier = make_copier(self._tensors, {name: slot.writer.span(name) for name in self._tensors})
        generators = random_state()
        for name, state in generators.items():
            slot.put(name, state)
        self._copier.start(slot.payload)
        self._sequence += 1
        sums = self._padding | {name: tensor_sum(state) for name, state in generators.items()}
        self._pending = slot, msgspec.structs.replace(self._head(position, why, saves, durable), sums=sums)
        self.poll()
        return True

    def _free_slot(self) -> Slot | None:
        """The oldest slot that nobody needs: never the newest snapshot, and the newest durable one only if there is no other."""
        newest = max(slot.order for slot in self._slots)
        newest_durable = max((slot.order for slot in self._slots if slot.durable), default=None)
        free = [slot for slot in self._slots if slot.order != newest or slot.order == (0, 0)]
        for slot in sorted(free, key=lambda slot: (slot.order == newest_durable, slot.order)):
            if slot.writer.begin():
                return slot
        return None

    def _head(self, position: Position, why: str, saves: int, durable: bool) -> SlotHead:
        identity = self._identity
        return SlotHead(
            run=identity.run,
            attempt=identity.attempt,
            token=identity.token,
            sequence=self._sequence,
            step=position.step,
            tokens=position.tokens,
            samples=position.samples,
            saves=saves,
            why=why,
            durable=durable,
            rank=identity.rank,
            world=identity.world,
            parent=identity.parent,
            fingerprint=identity.fingerprint,
            config_digest=identity.config_digest,
            state={"data_digest": identity.data_digest},
            parts=self._parts,
        )

    def poll(self) -> bool:
        """Complete a snapshot whose copy is done. True where none is under way any more."""
        if self._pending is None or self._copier is None:
            return True
        sums = self._copier.done()
        if sums is None:
            return False
        slot, head = self._pending
        slot.writer.complete(msgspec.structs.replace(head, sums=head.sums | sums))
        slot.order, slot.durable, self._pending = (head.attempt, head.sequence), head.durable, None
        self.taken, self.durable = self.taken + 1, self.durable + head.durable
        self.newest_step, self.saves = head.step, head.saves
        return True

    def before_update(self) -> None:
        """The optimizer is about to change what a copy under way may still read."""
        if self._pending is not None and self._copier is not None:
            self._copier.before_update()

    def close(self) -> None:
        self._thread.shutdown()
        for slot in self._slots:
            slot.close()
        self._slots = []
