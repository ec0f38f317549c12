"""Snapshots: the whole state of training, written into slots. The trainer only writes slots; the keeper makes checkpoints of them.

Where there are several ranks, each takes the same snapshots into its files of the same slots, at the same steps:

    rank 0 finds a slot that is free -> all are ready? -> each locks its file, copies, completes it -> all have: it counts
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import msgspec
import torch

from adam.contract.paths import RunPaths
from adam.contract.records import Staging
from adam.contract.shared import Control
from adam.contract.slots import PADDING, RAM, Part, SlotHead, TensorEntry, aligned
from adam.contract.steplog import NO_ROW, RowKey
from adam.contract.sums import page_sum
from adam.trainer.copying import Copier, Tensors, make_copier
from adam.trainer.model.lm import MambaLM
from adam.trainer.owed import Owed
from adam.trainer.ranks import Ranks
from adam.trainer.staging import Slot, SlotMaker
from adam.trainer.state import own_part, random_state, trained_state
from adam.trainer.sums import tensor_sum

GONE, NO_SLOT, ANY_SLOT = -2, -1, 1 << 30
NOTHING = Control()
RETRY_S = 30.0
POLL_S = 0.005
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


class Snapshots:
    """Takes snapshots of one attempt.

    The slots are made by a thread, since allocating 33 GB takes seconds; until they are there, nothing is due.
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
        self._maker = SlotMaker(paths, self._entries, identity.rank, identity.world)
        self._slots: list[Slot] = []
        self._copier: Copier | None = None
        self._pending: tuple[Slot, SlotHead] | None = None
        self._complete: tuple[SlotHead, Callable[[], bool]] | None = None  # on this rank; on all ranks?
        self._votes, self._completions = Ranks(), Ranks()
        self._sequence, self._debt = 0, ""  # why a durable snapshot was taken that is gone before it was a checkpoint
        self._host_s = self._waited_s = 0.0
        self.taken = self.durable = self.newest_step = self.saves = 0
        self.in_ram, self.trouble = False, ""
        self._report = Owed()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="slots")
        self._making: Future[None] | None = self._thread.submit(self._make_slots)
        self._again_at = 0.0
        wait([self._making], timeout=PATIENCE_S)

    @property
    def stall_s(self) -> float:
        """What the last snapshot cost training: the time of its beginning and of a wait for the one before (`finish`), for which the device
        has nothing to do, and what the device then does of it before the next step."""
        return self._host_s + (self._copier.device_s if self._copier else 0.0)

    @property
    def under_way(self) -> bool:
        """True while this rank copies."""
        return self._pending is not None

    def _make_slots(self) -> None:
        """Slots in memory, else on disk, else none and the reason in `trouble`: the same on all ranks."""
        slots, why = self._maker.make(in_ram=True) if self._use_ram else ([], "checkpoint.ram is off")
        self.in_ram, self.trouble = bool(slots), ""
        if not slots:
            slots, self.trouble = self._maker.make(in_ram=False)
        self._slots = slots
        tier = "ram" if self.in_ram else "none" if self.trouble else "disk"
        size = slots[0].writer.size if slots else 0
        report = Staging(
            attempt=self._identity.attempt, tier=tier, why=self.trouble or why, slots=len(slots), slot_bytes=size
        )
        if self._identity.rank == 0:
            self._report.save(self._paths.staging_report, report, durable=False)

    def ready(self) -> bool:
        """True where there are slots now; a failure to make them is tried again after a while."""
        if self._making is not None and self._making.done():
            self._making.result()
            self._making = None
            self._again_at = time.monotonic() + RETRY_S
        if not self._slots and self._making is None and time.monotonic() >= self._again_at:
            self._making = self._thread.submit(self._make_slots)
        self._report.write()
        return self._making is None and bool(self._slots)

    def take(self, position: Position, *, why: str, control: Control = NOTHING, logged: RowKey | None = NO_ROW) -> bool:
        """Begin a snapshot of now. False where that is not possible: slots are busy, missing, or the last is under way, or the
        log of steps is behind (`logged`, its newest row, is None).

        All ranks are to call it at the same steps: it waits for them, and is True on all or on none. What rank 0 says of the
        snapshot is what counts.
        """
        slot = self._agreed_slot(control.committed, ready=self.ready() and self.poll() and logged is not None)
        if slot is None or logged is None:
            return False
        if self._copier is None:
            self._copier = make_copier(self._tensors, {name: slot.writer.span(name) for name in self._tensors})
        began = time.perf_counter()
        self._sequence += 1
        why = self._and_owed(why, slot, control.committed)
        self._begin(slot, self._copier, self._head(position, why, control.saves, logged))
        self._host_s, self._waited_s = self._waited_s + time.perf_counter() - began, 0.0
        self.poll()
        return True

    def _begin(self, slot: Slot, copier: Copier, head: SlotHead) -> None:
        generators = random_state()
        for name, state in generators.items():
            slot.put(name, state)
        copier.start(slot.payload)
        sums = self._padding | {name: tensor_sum(state) for name, state in generators.items()}
        self._pending = slot, msgspec.structs.replace(head, sums=sums)

    def _and_owed(self, why: str, slot: Slot, committed: int) -> str:
        """Why a snapshot into `slot` is taken: it takes over what one that it writes over, or one that was deleted, was for."""
        owed = slot.why if slot.owed(self._identity.attempt, committed) else self._debt
        self._debt = ""
        return owed if owed and why == RAM else why

    def _agreed_slot(self, committed: int, *, ready: bool) -> Slot | None:
        """The slot that all ranks write, begun; None where a rank is not ready or rank 0 finds none.

        Rank 0 has locked its file before it names the slot: a keeper has none of the others, or is just letting go of them.
        """
        number = ANY_SLOT if ready else NO_SLOT
        if ready and not all(slot.writer.is_there() for slot in self._slots):
            number = GONE
        elif ready and self._identity.rank == 0:
            number = self._lock_free_slot(committed)
        agreed = self._votes.least(number)
        if agreed < 0:
            if 0 <= number < ANY_SLOT:
                self._slots[number].writer.unlock()
            if agreed == GONE:
                self._make_anew()
            return None
        slot = self._slots[agreed]
        slot.writer.lock(wait=True)
        slot.writer.begin()
        return slot

    def _make_anew(self) -> None:
        """Somebody has deleted slots under us (logind, a person). What was in them may have been promised: the next one is durable."""
        self._debt = "interval"
        for slot in self._slots:
            slot.close()
        self._slots, self._again_at = [], 0.0

    def _lock_free_slot(self, committed: int) -> int:
        """The number of the oldest slot that nobody needs, with its file locked; NO_SLOT where there is none.

        Never the newest snapshot, and one that is still to be a checkpoint only if there is no other.
        """
        attempt = self._identity.attempt
        newest = max(slot.order for slot in self._slots)
        free = [slot for slot in self._slots if slot.order != newest or slot.order == (0, 0)]
        for slot in sorted(free, key=lambda slot: (slot.owed(attempt, committed), slot.order)):
            if slot.writer.lock():
                return self._slots.index(slot)
        return NO_SLOT

    def _head(self, position: Position, why: str, saves: int, logged: RowKey) -> SlotHead:
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
            durable=why != RAM,
            logged=logged,
            rank=identity.rank,
            world=identity.world,
            parent=identity.parent,
            fingerprint=identity.fingerprint,
            config_digest=identity.config_digest,
            state={"data_digest": identity.data_digest},
            parts=self._parts,
        )

    def poll(self) -> bool:
        """Complete a snapshot whose copy is done. True where none is under way any more, on any rank."""
        if self._pending is not None and self._copier is not None and (sums := self._copier.done()) is not None:
            slot, head = self._pending
            slot.writer.complete(msgspec.structs.replace(head, sums=head.sums | sums))
            slot.holds(head)
            self._pending = None
            self._complete = head, self._completions.arrive()
        if self._complete is not None and self._complete[1]():
            self._count(self._complete[0])
            self._complete = None
        return self._pending is None and self._complete is None

    def finish(self) -> None:
        """Wait until no copy is under way."""
        began = time.perf_counter()
        while not self.poll():
            time.sleep(POLL_S)
        self._waited_s += time.perf_counter() - began

    def _count(self, head: SlotHead) -> None:
        """A snapshot is complete on all ranks."""
        self.taken, self.durable = self.taken + 1, self.durable + head.durable
        self.newest_step, self.saves = head.step, head.saves
        if self._maker.foreign:
            self._thread.submit(self._maker.drop_foreign)

    def before_update(self) -> None:
        """The optimizer is about to change what a copy under way may still read."""
        if self._pending is not None and self._copier is not None:
            self._copier.before_update()

    def close(self) -> None:
        self._thread.shutdown()
        if self._copier is not None:
            self._copier.close()
        for slot in self._slots:
            slot.close()
        self._slots = []
        self._maker.let_go()
