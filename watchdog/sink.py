"""A sink: passes the rows of `metrics.csv` on to one place. A process of its own, which may be slow, hang or die.

    python -P -m adam.watchdog.sink prometheus|tensorboard|trackio --run DIR --parent PID

`metrics.csv` is the queue: where a place can't take rows they wait, and are tried again at growing intervals and for ever. Each sink
knows by itself what its place has already (`begin`), so that one that is started again goes on there. How it speaks to the watchdog,
and ends: see `follower`.
"""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from adam.contract.clock import boottime_ns
from adam.contract.config import Config
from adam.contract.config_file import load_config
from adam.contract.errors import AdamError, run_main
from adam.contract.paths import RunPaths
from adam.contract.process import die_with_parent
from adam.contract.sinks import PACKAGES
from adam.watchdog.follower import FollowerWords, Patience, Voice, follow
from adam.watchdog.rows import Key, Row, Rows

RETRY_S, RETRY_MOST_S = 2.0, 300.0
NICE = 10  # behind training
MOST_AT_ONCE = 500  # rows: the watchdog hears of us in between


class Sink(Protocol):
    """A place for rows. Both calls raise AdamError or OSError where it can't be reached now; they are then made again."""

    def begin(self) -> Key:
        """The key of the last row that the place has; (0, 0): none. Rows behind it are given from then on."""

    def take(self, rows: Sequence[Row]) -> None:
        """Rows in their order. Behind this call, and not before, the place has them."""


class Feeder:
    """Gives a sink its rows."""

    def __init__(self, path: Path, sink: Sink) -> None:
        self._path, self._sink = path, sink
        self._rows: Rows | None = None
        self._patience = Patience(RETRY_S, RETRY_MOST_S)
        self._voice = Voice()
        self._trouble = ""

    def turn(self, now: float) -> None:
        """All rows that there are."""
        if self._patience.allows(now):
            try:
                while self._feed():
                    self._voice.say(FollowerWords(), boottime_ns() / 1e9)
                self._trouble = ""
                self._patience.went_well()
            except (AdamError, OSError) as error:
                self._rows = None  # what the place has is asked again
                self._trouble = one_line(error)
                self._patience.failed(now)
        self._voice.say(FollowerWords(self._trouble), now)

    def _feed(self) -> bool:
        """Some rows; False where there are no more."""
        if self._rows is None:
            self._rows = Rows(self._path, self._sink.begin())
        rows = self._rows.read(MOST_AT_ONCE)
        if rows:
            self._sink.take(rows)
        return bool(rows)


def one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f" ({error.filename})" if error.filename else "")
    return " ".join(str(error).split()) or type(error).__name__


def make_sink(name: str, paths: RunPaths, config: Config) -> Sink:
    """Raises ModuleNotFoundError where its package is not installed."""
    sink: Sink = importlib.import_module(f"adam.watchdog.sink_{name}").make(paths, config)
    return sink


def missing_words(name: str, error: ModuleNotFoundError) -> str:
    package = PACKAGES[name]
    return (
        f"the package {package} is not installed (no module {error.name}); "
        f"{sys.executable} -m pip install {package}, or take it out of [sinks]"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="sink", description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(PACKAGES), help="which")
    parser.add_argument("--run", type=Path, required=True, help="the run directory")
    parser.add_argument("--parent", type=int, required=True, help="end when this process does")
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))  # what was not passed on is when the run goes on
    os.nice(NICE)
    paths = RunPaths(arguments.run)
    try:
        sink = make_sink(arguments.name, paths, load_config(paths.lock))
    except ModuleNotFoundError as error:
        words = missing_words(arguments.name, error)
        Voice().say(FollowerWords(words, missing=True), boottime_ns() / 1e9)
        raise AdamError(f"{arguments.name}: {words}") from None
    follow(Feeder(paths.metrics, sink).turn)
    return 0


if __name__ == "__main__":
    sys.exit(run_main("sink", main))
