"""The alerter: reads `events.jsonl` and tells people what matters. A process of its own, because commands and webhooks can hang.

    python -P -m adam.watchdog.alerter --run DIR (--parent PID | --test)

The file is the queue: an alert that can't be sent is tried again, at growing intervals and for ever, and the events behind it wait.
`run/alerts.json` says how far each target has come. How it speaks to the watchdog, and ends: see `follower`.
"""

import argparse
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from adam.contract import schema
from adam.contract.clock import iso, stamp
from adam.contract.config import Alerts
from adam.contract.config_file import load_config
from adam.contract.durable import log_lines
from adam.contract.errors import AdamError, DataError, run_main
from adam.contract.events import Event
from adam.contract.paths import RunPaths
from adam.contract.process import die_with_parent
from adam.contract.schema import Record
from adam.watchdog.alert_rules import AlertMemory, AlertRules, hear, summary
from adam.watchdog.alert_send import Alert, Send, by_command, by_webhook, webhook_of
from adam.watchdog.follower import FollowerWords, Patience, Voice, follow

RETRY_S = 5.0
RETRY_MOST_S = 600.0


class Offsets(Record, frozen=True, kw_only=True):
    """`run/alerts.json` (writer: the alerter): by target, the byte of `events.jsonl` behind the last event that was dealt with."""

    offsets: dict[str, int] = {}


class Courier:
    """One target: what it was told, and what it is still to be told."""

    def __init__(self, send: Send, rules: AlertRules, run: str, offset: int) -> None:
        self._send, self._rules, self._run = send, rules, run
        self.offset, self.trouble = offset, ""
        self._memory = AlertMemory()
        self._patience = Patience(RETRY_S, RETRY_MOST_S)

    def go_on(self, events: Path, now: float) -> None:
        """Deal with the events behind `offset`, up to the first alert that can't be sent."""
        if not self._patience.allows(now):
            return
        for offset, line in log_lines(events, self.offset):
            event = decoded(line)
            memory, text = hear(self._rules, self._memory, event, now) if event else (self._memory, "")
            if text and event and not self._deliver(Alert(text, self._run, event.kind, event.time, event.facts), now):
                return
            self._memory, self.offset = memory, offset
        memory, text = summary(self._rules, self._memory, now)
        if not text or self._deliver(Alert(text, self._run, "summary", iso(stamp().wall), {}), now):
            self._memory = memory

    def _deliver(self, alert: Alert, now: float) -> bool:
        self.trouble = self._send(alert)
        if self.trouble:
            self._patience.failed(now)
        else:
            self._patience.went_well()
        return not self.trouble


def decoded(line: bytes) -> Event | None:
    try:
        return msgspec.json.decode(line, type=Event)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None  # torn by the disk


def targets(alerts: Alerts, environ: dict[str, str]) -> dict[str, Send]:
    """By name; empty where nobody wants alerts."""
    found = {"command": by_command(alerts.command)} if alerts.command else {}
    if url := webhook_of(environ):
        found["webhook"] = by_webhook(url)
    return found


class Alerter:
    """All targets of one run. A new one begins at byte `begin` of the events: it is not told a run's whole past."""

    def __init__(self, paths: RunPaths, alerts: Alerts, sends: dict[str, Send], begin: int) -> None:
        self._paths = paths
        rules = AlertRules(frozenset(alerts.kinds), alerts.per_hour, alerts.repeat_minutes * 60)
        known = read_offsets(paths)
        self._voice = Voice()
        self._couriers = {
            name: Courier(self._told_of(send), rules, str(paths.root), known.get(name, begin))
            for name, send in sends.items()
        }
        self._saved = dict(known)
        self._save()  # before anything is sent: who is killed while he sends is new no more

    def turn(self, now: float) -> None:
        for courier in self._couriers.values():
            courier.go_on(self._paths.events, now)
        self._save()
        trouble = "; ".join(courier.trouble for courier in self._couriers.values() if courier.trouble)
        self._voice.say(FollowerWords(trouble), now)

    def _told_of(self, send: Send) -> Send:
        """`send`, and a sign of life behind it: several in a row may take longer than a follower may be silent."""

        def sent(alert: Alert) -> str:
            trouble = send(alert)
            self._voice.again()
            return trouble

        return sent

    def _save(self) -> None:
        offsets = {name: courier.offset for name, courier in self._couriers.items()}
        if offsets != self._saved:
            with suppress(OSError):  # tried again at the next turn: a full disk is what people are to hear of
                schema.save_reserved(self._paths.alerts, Offsets(offsets=offsets), durable=False)
                self._saved = offsets


def read_offsets(paths: RunPaths) -> dict[str, int]:
    try:
        found = schema.load(paths.alerts, Offsets)
    except DataError:
        return {}  # torn by a power cut, which it may be
    return found.offsets if found else {}


def test(paths: RunPaths, sends: dict[str, Send]) -> int:
    """Send one alert to each target, and say how that went."""
    if not sends:
        raise AdamError(
            "no alerts are configured",
            f"set alerts.command in {paths.config}, or ADAM_ALERT_WEBHOOK in the environment",
        )
    alert = Alert("a test: alerts of this run arrive", str(paths.root), "test", iso(stamp().wall), {})
    troubles = {name: send(alert) for name, send in sends.items()}
    for name, trouble in troubles.items():
        print(f"{name}: {trouble or 'sent'}")
    return int(any(troubles.values()))


def main() -> int:
    parser = argparse.ArgumentParser(prog="alerter", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="the run directory")
    parser.add_argument("--parent", type=int, default=0, help="end when this process does")
    parser.add_argument(
        "--begin", type=int, default=0, help="where in events.jsonl a target begins that is new, in bytes"
    )
    parser.add_argument("--test", action="store_true", help="send a test to every target, and end")
    arguments = parser.parse_args()
    paths = RunPaths(arguments.run)
    alerts = load_config(paths.lock if paths.lock.exists() else paths.config).alerts
    sends = targets(alerts, dict(os.environ))
    if arguments.test:
        return test(paths, sends)
    die_with_parent(arguments.parent)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # in the middle of a command: it is ended too
    follow(Alerter(paths, alerts, sends, arguments.begin).turn)
    return 0


if __name__ == "__main__":
    sys.exit(run_main("alerter", main))
