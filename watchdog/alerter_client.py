"""The alerter as the watchdog sees it: started where alerts are wanted, started again when it dies, never waited for but at the end."""

import selectors

import msgspec

from adam.contract.config import Config
from adam.contract.paths import RunPaths
from adam.watchdog.alert_send import AlerterWords, webhook_of
from adam.watchdog.child import LineChild

LAST_WORDS_S = 5.0


def pause_s(deaths: int) -> float:
    return float(min(300.0, 2.0 ** (deaths - 1)))


class AlerterClient:
    """`note` says what keeps alerts from being sent; empty: nothing, or nobody wants any."""

    def __init__(
        self, paths: RunPaths, config: Config, environ: dict[str, str], selector: selectors.BaseSelector, stderr: int
    ) -> None:
        wanted = config.alerts.command or webhook_of(environ)
        begin = paths.events.stat().st_size if paths.events.exists() else 0
        arguments = ["adam.watchdog.alerter", "--run", str(paths.root), "--begin", str(begin)]
        self._child = LineChild(arguments, selector, pause_s, stderr) if wanted else None
        self.note = ""

    @property
    def pid(self) -> int:
        return self._child.pid if self._child else 0

    def attend(self, now: float) -> None:
        if self._child is None:
            return
        for line in self._child.lines(now):
            self.note = msgspec.json.decode(line, type=AlerterWords).trouble
        self._child.start_if_due(now)

    def end(self, now: float) -> None:
        """Let it send what was told last, for a few seconds; what could not be sent is sent when the run goes on."""
        if self._child is not None:
            self._child.finish(now, LAST_WORDS_S)
