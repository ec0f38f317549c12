"""The followers as the watchdog sees them: started where wanted, again when they die or fall silent, and waited for at the end only."""

import selectors
from collections.abc import Mapping
from time import monotonic

import msgspec

from adam.contract.config import Config
from adam.contract.paths import RunPaths
from adam.watchdog.alert_send import webhook_of
from adam.watchdog.child import LineChild, Quiet
from adam.watchdog.follower import BEAT_S, FollowerWords

LAST_WORDS_S = 5.0  # for all of them together
SILENT_S = 6 * BEAT_S  # longer than a command of the alerter's, or its webhook, may take
MISSING_AGAIN_S = 600.0


def pause_s(deaths: int) -> float:
    return float(min(300.0, 2.0 ** (deaths - 1)))


class Follower:
    """One of them. `note` says what keeps it from its work; empty: nothing.

    Args:
        name: begins the note; empty: the note needs no name.
        silent_s: seconds without a word after which it is taken to hang, killed and started again.
    """

    def __init__(
        self, name: str, arguments: list[str], selector: selectors.BaseSelector, stderr: int, *, silent_s: float
    ) -> None:
        self._child = LineChild(arguments, selector, pause_s, stderr)
        self._name, self._silent_s = name, silent_s
        self._quiet = Quiet()
        self._words, self._hung = FollowerWords(), False
        self.note = ""

    @property
    def pid(self) -> int:
        return self._child.pid

    def attend(self, now: float) -> None:
        """Hear it; end it where it hangs; start it where it is time."""
        self._quiet.look(now)
        lived = self._child.pid
        for line in self._child.lines(now):
            self._hear(line)
        if lived and not self._child.pid:
            self._ended(now)
        if self._child.pid and self._quiet.seconds > self._silent_s:
            self._hung = True
            self._quiet.heard()
            self._child.kill()
            self.note = self._named(f"it did not answer for {self._silent_s:g} s, and is started again")
        if self._child.start_if_due(now):
            self._words = FollowerWords()
            self._quiet.heard()

    def _hear(self, line: bytes) -> None:
        try:
            words = msgspec.json.decode(line, type=FollowerWords)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return  # printed by some library that it uses
        self._words, self._hung = words, False
        self._quiet.heard()
        self.note = self._named(words.trouble)

    def _ended(self, now: float) -> None:
        if self._words.missing:
            self._child.start_at = now + MISSING_AGAIN_S
        elif not self._hung:
            self.note = self._named("it died, and is started again")

    def _named(self, trouble: str) -> str:
        return f"{self._name}: {trouble}" if trouble and self._name else trouble

    def hush(self) -> None:
        self._child.hush()

    def finish(self, now: float, seconds: float) -> None:
        self._child.finish(now, seconds)


class Followers:
    """All of a run. None of them is ever waited for, but at the end."""

    def __init__(self, followers: list[Follower]) -> None:
        self._all = followers

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(follower.note for follower in self._all)

    def attend(self, now: float) -> None:
        for follower in self._all:
            follower.attend(now)

    def end(self, now: float) -> None:
        """Let them do what is left, for a few seconds all together; what was not done is when the run goes on."""
        for follower in self._all:
            follower.hush()
        deadline = monotonic() + LAST_WORDS_S
        for follower in self._all:
            follower.finish(now, max(0.0, deadline - monotonic()))


def followers_of(
    paths: RunPaths, config: Config, environ: Mapping[str, str], selector: selectors.BaseSelector, stderr: int
) -> Followers:
    """The alerter where alerts are wanted, and a process for each sink that is."""
    run = ["--run", str(paths.root)]
    found = []
    if config.alerts.command or webhook_of(environ):
        begin = paths.events.stat().st_size if paths.events.exists() else 0
        arguments = ["adam.watchdog.alerter", *run, "--begin", str(begin)]
        found.append(Follower("", arguments, selector, stderr, silent_s=SILENT_S))
    for name in config.sinks.wanted:
        arguments = ["adam.watchdog.sink", name, *run]
        found.append(Follower(f"the sink {name}", arguments, selector, stderr, silent_s=SILENT_S))
    return Followers(found)
