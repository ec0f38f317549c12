"""From a slot to a checkpoint: the one place where checkpoints come into being.

    slot ──copy, SHA-256──> .tmp-NAME/rank-00000.safetensors ──CRC of each tensor──>
         state.json ──> MANIFEST.json ──rename──> NAME/

Every file, the log of steps and the directory are fsynced before the rename, the directory of checkpoints after it.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import msgspec

from adam.contract.checkpoints import MANIFEST, STATE, FileEntry, checkpoint_name, manifest_of, rank_file, seal
from adam.contract.clock import stamp
from adam.contract.durable import (
    copy_hashed,
    free_bytes,
    fsync_dir,
    human_bytes,
    new_file,
    remove_tree,
    sha256_file,
    write_all,
)
from adam.contract.errors import CheckpointError, DiskError
from adam.contract.slots import SlotHead, check_sums, read_head
from adam.watchdog.keeper_words import Committed
from adam.watchdog.store import TEMPORARY, Store

SLOTS = "slot-*.safetensors"
SPARE_BYTES = 1 << 20  # for state, manifest and directories


@contextmanager
def reading(slot: Path) -> Iterator[IO[bytes] | None]:
    """The slot, locked against its writer; None where the trainer is writing it or it is gone."""
    try:
        file = slot.open("rb", buffering=0)
    except FileNotFoundError:
        yield None
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield file


def complete_slots(staging: Path) -> list[tuple[Path, SlotHead]]:
    """The slots that say that they are complete, newest first; unreadable ones are left out."""
    found = []
    for path in staging.glob(SLOTS):
        try:
            head = read_head(path)
        except CheckpointError:
            continue
        if head is not None:
            found.append((path, head[0]))
    return sorted(found, key=lambda item: (item[1].attempt, item[1].sequence), reverse=True)


def is_committed(store: Store, head: SlotHead) -> bool:
    """True where a checkpoint of the same attempt is as far: retention keeps the newest, so this needs no memory.

    One that this keeper did not make, or could not make durable, is checked first: to say that it is there is a promise.
    """
    return any(
        kept.attempt == head.attempt and kept.step >= head.step and (kept.verified or store.confirm(kept.name))
        for kept in reversed(store.listing())
    )


def commit(store: Store, slot: Path, head: SlotHead) -> Committed | None:
    """Make a checkpoint of a complete slot; None where the slot is being written, or is no longer what `head` says.

    Raises CheckpointError where the slot's bytes are not those that the trainer wrote, DiskError or OSError where the
    disk does not take it: nothing is then left behind.
    """
    began = time.monotonic()
    with reading(slot) as source:
        if source is None:
            return None
        now = read_head(slot)
        if now is None or (now[0].attempt, now[0].sequence) != (head.attempt, head.sequence):
            return None
        size = os.fstat(source.fileno()).st_size
        make_room(store, size)
        name = checkpoint_name(head.step, head.attempt)
        temporary = store.paths.checkpoints / f"{TEMPORARY}{name}"
        try:
            _build(store, temporary, source, head)
            _publish(store, temporary, name)
        finally:
            with suppress(OSError):  # the next `clean` tries again; what went wrong first is the error to tell
                remove_tree(temporary)
    return Committed(name, head.step, head.why, size, time.monotonic() - began)


def make_room(store: Store, need: int) -> None:
    """Where there is no room, let go of all that retention can spare. Raises DiskError where that is not enough."""
    need += SPARE_BYTES
    if free_bytes(store.paths.checkpoints) < need:
        store.prune(keep_last=1)
    free = free_bytes(store.paths.checkpoints)
    if free < need:
        raise DiskError(
            f"no room for the next checkpoint in {store.paths.checkpoints}: {human_bytes(need)} needed, "
            f"{human_bytes(free)} free",
            "free some space; it is then written by itself",
        )


def _build(store: Store, temporary: Path, source: IO[bytes], head: SlotHead) -> None:
    remove_tree(temporary)
    temporary.mkdir()
    tensors = temporary / rank_file(0)
    with new_file(tensors) as target:
        digest = copy_hashed(source, target)
    _check_copy(tensors)
    _write(temporary / STATE, readable(head))
    _sync_steps(store.paths.steps)
    files = (
        FileEntry(tensors.name, tensors.stat().st_size, digest),
        FileEntry(STATE, (temporary / STATE).stat().st_size, sha256_file(temporary / STATE)),
    )
    _write(temporary / MANIFEST, seal(manifest_of(head, files, stamp())))
    fsync_dir(temporary)


def _publish(store: Store, temporary: Path, name: str) -> None:
    target = store.directory(name)
    if target.exists():
        store.quarantine(name, "it was not whole, and the same checkpoint was committed again")
    temporary.rename(target)
    fsync_dir(store.paths.checkpoints)
    store.mark_verified(name)


def readable(head: SlotHead) -> bytes:
    """The head for people and scripts: without its table of checksums, which is in the tensors' own file."""
    fields = msgspec.to_builtins(head)
    del fields["crc32"]
    return msgspec.json.format(msgspec.json.encode(fields), indent=1) + b"\n"


def _check_copy(tensors: Path) -> None:
    """The copy is what is checked: so an error of the copying shows too."""
    complete = read_head(tensors)
    if complete is None:
        raise CheckpointError(f"{tensors} is incomplete")
    check_sums(tensors, *complete)


def _write(path: Path, data: bytes) -> None:
    with new_file(path) as fd:
        write_all(fd, data)


def _sync_steps(steps: Path) -> None:
    """No durable checkpoint is ahead of the log of steps."""
    try:
        fd = os.open(steps, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)
