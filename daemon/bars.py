"""Progress bars on a terminal: of `adamctl up --wait`, and of long reading and writing."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from adam.contract.states import RunState
from adam.daemon.report import headline, human_time

FORGE_PHASES = ("reading", "learning", "encoding")


class Bars:
    """One bar for each phase of the forge and one for training, each made when it is first needed."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}")
        )
        self._bars: dict[str, TaskID] = {}
        self._state = ""

    def __enter__(self) -> "Bars":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, report: dict[str, Any]) -> None:
        if report["state"] != self._state:
            self._state = report["state"]
            self._progress.console.print(headline(report), highlight=False, markup=False)
        progress = report["progress"]
        if progress is not None and progress["phase"] in FORGE_PHASES:
            self._set(progress["phase"], progress["done"], progress["total"], "")
        elif report["step"] or report["state"] == RunState.TRAINING:
            self._set("training", report["step"], report["steps"], training_text(report))

    def _set(self, name: str, done: int, total: int, text: str) -> None:
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(name, text=text)
        self._progress.update(self._bars[name], completed=done, total=total or None, text=text)


def training_text(report: dict[str, Any]) -> str:
    parts = [f"loss {report['loss']:.3f}"] if report["loss"] is not None else []
    if report["val_bits_per_byte"] is not None:
        parts.append(f"val {report['val_bits_per_byte']:.3f} bits/byte")
    if report["tokens_per_second"] is not None:
        parts.append(f"{report['tokens_per_second']:,.0f} tokens/s, {human_time(report['eta_s'])} left")
    return "  ".join([*parts, report["state"] if report["state"] != RunState.TRAINING else ""]).rstrip()


@contextmanager
def byte_bar(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr for work on `total` bytes, gone when it is done; none where stderr is no terminal. Tell it bytes done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    shown = sys.stderr.isatty()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not shown) as progress:
        task = progress.add_task(text, total=total)
        yield lambda count: progress.advance(task, count)
