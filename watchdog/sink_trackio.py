"""Trackio: the rows in its own local store, `trackio/` in the run directory (or where $TRACKIO_DIR says), from which `trackio show` draws.

Each row has an id of its own there, its attempt and step, under which the store takes it once: what a sink that was killed had
sent already is ignored when it is sent again. `trackio.log` is not used: it drops what it can't store, and says so to nobody.
"""

import os
import sqlite3
from collections.abc import Sequence

from adam.contract import schema
from adam.contract.clock import boot_id
from adam.contract.config import Config
from adam.contract.errors import AdamError, DataError
from adam.contract.paths import RunPaths
from adam.contract.schema import Record
from adam.watchdog.rows import Key, Row
from adam.watchdog.series import SERIES


class Sent(Record, frozen=True, kw_only=True):
    """`run/sink-trackio.json` (writer: this sink): the last row that the store has, and which store."""

    attempt: int = 0
    step: int = 0
    store: str = ""
    boot_id: str = ""


class Trackio:
    """The sink."""

    def __init__(self, paths: RunPaths, project: str, name: str) -> None:
        from trackio.sqlite_storage import SQLiteStorage

        self._store = SQLiteStorage
        self._position = paths.sink("trackio")
        self._project, self._name, self._id = project, name, paths.identity

    @property
    def _place(self) -> str:
        return f"{os.environ['TRACKIO_DIR']} {self._project}"

    def begin(self) -> Key:
        try:
            sent = schema.load(self._position, Sent) or Sent()
        except DataError:
            sent = Sent()  # torn by a power cut, which it may be
        # After a reboot nobody knows what of it reached the disk: all is sent again.
        there = (sent.store, sent.boot_id) == (self._place, boot_id()) and self._id in self._ids()
        return (sent.attempt, sent.step) if there else (0, 0)

    def _ids(self) -> set[str | None]:
        """Of the runs that the project has."""
        try:
            return {record["id"] for record in self._store.get_run_records(self._project)}
        except sqlite3.Error as error:
            raise AdamError(f"the store in {os.environ['TRACKIO_DIR']} can't be read: {error}") from None

    def take(self, rows: Sequence[Row]) -> None:
        try:
            self._store.bulk_log(
                project=self._project,
                run=self._name,
                run_id=self._id,
                metrics_list=[values(row) for row in rows],
                steps=[row.step for row in rows],
                timestamps=[row.cells["timestamp"] for row in rows],
                log_ids=[f"{self._id}-{row.attempt}-{row.step}" for row in rows],
            )
        except sqlite3.Error as error:
            raise AdamError(f"the store in {os.environ['TRACKIO_DIR']} does not take rows: {error}") from None
        last = Sent(attempt=rows[-1].attempt, step=rows[-1].step, store=self._place, boot_id=boot_id())
        schema.save(self._position, last, durable=False)


def values(row: Row) -> dict[str, float]:
    """Numbers by the name that they are drawn under; the attempt, since a step that was trained again is there twice."""
    found = {tag: value for column, tag in SERIES.items() if (value := row.number(column)) is not None}
    return {**found, "training/attempt": float(row.attempt)}


def make(paths: RunPaths, config: Config) -> Trackio:
    # Where the store is, Trackio reads when it is imported. The services of systemd can write the run and nothing else.
    os.environ.setdefault("TRACKIO_DIR", str(paths.root / "trackio"))
    return Trackio(paths, config.sinks.trackio, config.name or paths.root.name)
