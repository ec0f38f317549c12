"""The two memory-mapped files of `run/`: the pulse (a program's progress) and the control word (the watchdog's wishes).

A page in the page cache costs no system call to write and outlives its writer. Each write ends with a CRC over the fields;
a reader that meets a half-written one reads again.
"""

import mmap
import os
import struct
import zlib
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from adam.contract import schema
from adam.contract.errors import SchemaError
from adam.contract.paths import RunPaths
from adam.contract.records import Plan

MAGIC = b"ADAM"
SCHEMA = 1
READ_TRIES = 100


class Pulse(msgspec.Struct, frozen=True):
    """What a program is doing. Times are CLOCK_BOOTTIME in nanoseconds."""

    pid: int = 0
    attempt: int = 0
    token: int = 0
    step: int = 0
    micro_step: int = 0
    phase: int = 0
    phase_entered_ns: int = 0
    progress_ns: int = 0
    progress: int = 0  # counts every sign of progress: a hang is a count that stands still
    done: int = 0  # of `total`, in units of the phase (documents, bytes, samples)
    total: int = 0
    snapshots: int = 0  # slots completed by this attempt
    saves: int = 0  # the last save request that a completed slot answers
    snapshot_step: int = 0  # of the newest completed slot
    durable: int = 0  # completed slots that are to be committed
    unlogged: int = 0  # rows of the log of steps that the disk has not taken yet
    log_error: int = 0  # … and why: an errno
    sound: int = 0  # up to this step all is known to come of a chip that computed right


class Control(msgspec.Struct, frozen=True):
    """What the trainer is to do, for the holder of `token`."""

    token: int = 0
    pause: int = 0
    saves: int = 0  # requests of people
    due: int = 0  # requests of the policy, by time
    stop: int = 0
    committed: int = 0  # step of the holder's newest checkpoint


T = TypeVar("T", Pulse, Control)


class SharedWord(Generic[T]):
    """A struct of unsigned 64-bit fields in a mapped file: magic, schema, fields, CRC-32."""

    def __init__(self, path: Path, kind: type[T], *, write: bool) -> None:
        """Map `path`, making it where `write`. Raises FileNotFoundError where there is nothing to read yet."""
        self._kind: type[T] = kind
        self._format = struct.Struct(f"<4sI{len(kind.__struct_fields__)}QQ")
        flags = os.O_RDWR | os.O_CREAT if write else os.O_RDONLY
        fd = os.open(path, flags | os.O_CLOEXEC, 0o644)
        try:
            if write and os.fstat(fd).st_size != self._format.size:
                os.posix_fallocate(fd, 0, self._format.size)
                os.ftruncate(fd, self._format.size)
            if os.fstat(fd).st_size < 8:
                raise FileNotFoundError(f"{path} is still empty")
            self._map = mmap.mmap(fd, 0, access=mmap.ACCESS_WRITE if write else mmap.ACCESS_READ)
        except OSError as error:
            error.filename = error.filename or str(path)
            raise
        finally:
            os.close(fd)
        self._path = path

    def write(self, value: T) -> None:
        fields = msgspec.structs.astuple(value)
        body = struct.pack(f"<{len(fields)}Q", *fields)
        self._format.pack_into(self._map, 0, MAGIC, SCHEMA, *fields, zlib.crc32(body))

    def read(self) -> T | None:
        """The newest value; None where nothing was written yet. Raises SchemaError where a newer Adam wrote it."""
        for _ in range(READ_TRIES):
            data = self._map[: self._format.size]
            magic, schema = struct.unpack_from("<4sI", data)
            if magic != MAGIC:
                return None
            if schema > SCHEMA:
                raise SchemaError(f"{self._path} has schema {schema}, this Adam knows up to {SCHEMA}", "upgrade Adam")
            if len(data) == self._format.size:
                *fields, crc = self._format.unpack(data)[2:]
                if zlib.crc32(data[8:-8]) == crc:
                    value: T = self._kind(*fields)
                    return value
        return None

    def close(self) -> None:
        self._map.close()


def read_once(path: Path, kind: type[T]) -> T | None:
    """The value at `path` now, None where there is none."""
    try:
        word: SharedWord[T] = SharedWord(path, kind, write=False)
    except FileNotFoundError:
        return None
    try:
        return word.read()
    finally:
        word.close()


def sound_step(paths: RunPaths) -> int:
    """Up to which step all is known to come of a chip that computed right: by the trainer's pulse, or the plan that it has not taken up yet.

    Raises DataError, SchemaError where these can't be read.
    """
    pulse, plan = read_once(paths.pulse("0"), Pulse), schema.load(paths.plan, Plan)
    return max(pulse.sound if pulse is not None else 0, plan.sound if plan is not None else 0)
