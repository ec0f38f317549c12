"""From a slot to a checkpoint: the one place where checkpoints come into being.

    slot ──copy, SHA-256──> .tmp-NAME/rank-00000.safetensors ──checksum of each tensor──>
         state.json ──> MANIFEST.json ──rename──> NAME/

Every file, the log of steps and the directory are fsynced before the rename, the directory of checkpoints after it.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

import msgspec

from adam.contract.checkpoints import MANIFEST, STATE, FileEntry, manifest_of, rank_file, seal
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
from adam.contract.slots import SlotHead, read_head
from adam.contract.snapshots import Snapshot, read_snapshot
from adam.contract.steplog import require_logged
from adam.contract.sums import check_sums
from adam.watchdog.keeper_words import Committed
from adam.watchdog.store import TEMPORARY, Store

SPARE_BYTES = 1 << 20  # for state, manifest and directories


@contextmanager
def reading(snapshot: Snapshot) -> Iterator[list[IO[bytes]]]:
    """The files of a snapshot, locked against their writers; empty where a trainer is writing them, or has since."""
    with ExitStack() as stack:
        files: list[IO[bytes]] = []
        try:
            for path in snapshot.files:
                file = stack.enter_context(path.open("rb", buffering=0))
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                files.append(file)
        except (FileNotFoundError, BlockingIOError):
            files = []
        # What was read before it was locked may have been written over.
        now = read_snapshot(snapshot.path) if files else None
        yield files if now is not None and now.order == snapshot.order else []


def is_committed(store: Store, head: SlotHead) -> bool:
    """True where a checkpoint of the same attempt is as far: retention keeps the newest, so this needs no memory.

    One that this keeper did not make, or could not make durable, is checked first: to say that it is there is a promise.
    """
    return any(
        kept.attempt == head.attempt and kept.step >= head.step and (kept.verified or store.confirm(kept.name))
        for kept in reversed(store.listing())
    )


def commit(store: Store, snapshot: Snapshot) -> Committed | None:
    """Make a checkpoint of a snapshot; None where its slot is being written, or has another one by now.

    Raises CheckpointError where the snapshot's bytes are not those that the trainer wrote, DiskError or OSError where the
    disk does not take it: nothing is then left behind.
    """
    began = time.monotonic()
    head, name = snapshot.head, snapshot.name
    with reading(snapshot) as sources:
        if not sources:
            return None
        size = sum(os.fstat(source.fileno()).st_size for source in sources)
        make_room(store, size)
        require_logged(store.paths)
        temporary = store.paths.checkpoints / f"{TEMPORARY}{name}"
        try:
            _build(store, temporary, sources, head)
            _publish(store, temporary, name)
        finally:
            with suppress(OSError):  # the next `clean` tries again; what went wrong first is the error to tell
                remove_tree(temporary)
    staged = snapshot.path.parent == store.paths.staging
    return Committed(name, head.step, head.why, size, time.monotonic() - began, staged)


def make_room(store: Store, need: int) -> None:
    """Where there is no room, let go of all that retention can spare. Raises DiskError where that is not enough."""
    need += SPARE_BYTES
    if free_bytes(store.paths.checkpoints) < need:
        store.confirm_newest()  # what is not known to be right spares nothing else
        store.prune(keep_last=1)
    free = free_bytes(store.paths.checkpoints)
    if free < need:
        raise DiskError(
            f"no room for the next checkpoint in {store.paths.checkpoints}: {human_bytes(need)} needed, "
            f"{human_bytes(free)} free",
            "free some space; it is then written by itself",
        )


def _build(store: Store, temporary: Path, sources: list[IO[bytes]], head: SlotHead) -> None:
    remove_tree(temporary)
    temporary.mkdir()
    ranks = [_copy_rank(source, temporary / rank_file(rank)) for rank, source in enumerate(sources)]
    _write(temporary / STATE, readable(head))
    _sync_steps(store.paths.steps)
    state = FileEntry(STATE, (temporary / STATE).stat().st_size, sha256_file(temporary / STATE))
    files = (*ranks, state)
    _write(temporary / MANIFEST, seal(manifest_of(head, files, stamp())))
    fsync_dir(temporary)


def _copy_rank(source: IO[bytes], tensors: Path) -> FileEntry:
    with new_file(tensors) as target:
        digest = copy_hashed(source, target)
    _check_copy(tensors)
    return FileEntry(tensors.name, tensors.stat().st_size, digest)


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
    del fields["sums"], fields["parts"]
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
