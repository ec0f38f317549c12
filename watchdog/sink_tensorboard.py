"""TensorBoard: the rows as events in one file of the run, `tensorboard/events.out.tfevents.0.adam`.

The record format and the messages are the `tensorboard` package's own; neither TensorFlow nor torch is needed. The file is a function of
the rows: what was written of it is cut back to where the last batch ended and written again, byte for byte the same, so that a kill
at any moment leaves nothing twice. After a reboot nobody knows what of it reached the disk, and it is written anew from the first row.

A step that is trained again begins with the message that TensorBoard knows a restart by: it then forgets the later steps of before.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from adam.contract import schema
from adam.contract.clock import boot_id
from adam.contract.config import Config
from adam.contract.durable import write_all
from adam.contract.errors import DataError
from adam.contract.paths import RunPaths
from adam.contract.schema import Record
from adam.watchdog.rows import Key, Row
from adam.watchdog.series import SERIES

FILE = "events.out.tfevents.0.adam"
VERSION = "brain.Event:2"  # of the format, in the first event of a file


class Written(Record, frozen=True, kw_only=True):
    """`run/sink-tensorboard.json` (writer: this sink): the last row that is in the file, and the file's size behind it."""

    attempt: int = 0
    step: int = 0
    size: int = 0
    inode: int = 0
    boot_id: str = ""


class Whole:
    """Collects what a RecordWriter writes."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes) -> None:
        self.data += data


class TensorBoard:
    """The sink."""

    def __init__(self, file: Path, position: Path) -> None:
        self._file, self._position = file, position
        self._fd = -1
        self._attempt = 0

    def begin(self) -> Key:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._file.parent.mkdir(exist_ok=True)
        self._fd = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        written = self._known()
        os.ftruncate(self._fd, written.size)
        self._attempt = written.attempt
        return written.attempt, written.step

    def take(self, rows: Sequence[Row]) -> None:
        out = Whole()
        records = RecordWriter(out)
        if os.fstat(self._fd).st_size == 0:
            records.write(Event(wall_time=rows[0].wall, file_version=VERSION).SerializeToString())
        attempt = self._attempt
        for row in rows:
            if row.attempt != attempt:
                attempt = row.attempt
                restart = SessionLog(status=SessionLog.START)
                records.write(Event(wall_time=row.wall, step=row.step, session_log=restart).SerializeToString())
            records.write(Event(wall_time=row.wall, step=row.step, summary=summary(row)).SerializeToString())
        write_all(self._fd, bytes(out.data))
        self._attempt = attempt
        status = os.fstat(self._fd)
        last = Written(
            attempt=rows[-1].attempt,
            step=rows[-1].step,
            size=status.st_size,
            inode=status.st_ino,
            boot_id=boot_id(),
        )
        schema.save(self._position, last, durable=False)

    def _known(self) -> Written:
        """What is in the file for certain."""
        try:
            found = schema.load(self._position, Written) or Written()
        except DataError:
            return Written()  # torn by a power cut, which it may be
        status = os.fstat(self._fd)
        same = found.boot_id == boot_id() and found.inode == status.st_ino and found.size <= status.st_size
        return found if same else Written()


def summary(row: Row) -> Summary:
    values = [(tag, row.number(column)) for column, tag in SERIES.items()]
    return Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values if value is not None])


def make(paths: RunPaths, config: Config) -> TensorBoard:
    del config
    return TensorBoard(paths.tensorboard / FILE, paths.sink("tensorboard"))
