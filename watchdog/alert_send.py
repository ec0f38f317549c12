"""Where alerts go: a command of the user's, a webhook. Each call ends within its time, and says what went wrong."""

import functools
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress

import msgspec

from adam.contract.credentials import credential_path, read_secret
from adam.contract.process import die_with_parent

COMMAND_S = 60.0
KILLED_S = 2.0
WEBHOOK_S = 30.0
WEBHOOK = "alert_webhook"  # the credential's name; the variable is ADAM_ALERT_WEBHOOK


class Alert(msgspec.Struct, frozen=True):
    """What a command reads on stdin and a webhook gets, as JSON."""

    text: str
    run: str
    kind: str
    time: str
    facts: dict[str, object]


Send = Callable[[Alert], str]  # "" where it went well, else why not


def by_command(command: str) -> Send:
    """Runs `command` in a shell, with the alert's text in $ADAM_ALERT too."""

    def send(alert: Alert) -> str:
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", command],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={**os.environ, "ADAM_ALERT": alert.text},
                process_group=0,
                preexec_fn=functools.partial(die_with_parent, os.getpid()),  # noqa: PLW1509 - the alerter has one thread
            )
        except OSError as error:
            return f"the alert command can't be started: {error.strerror}"
        try:
            words = process.communicate(msgspec.json.encode(alert) + b"\n", COMMAND_S)[1]
        except BaseException as error:  # the time is over, or our own end has come
            os.killpg(process.pid, signal.SIGKILL)  # with what it has started
            with suppress(subprocess.TimeoutExpired):  # one that left the group may hold our pipe for ever
                process.communicate(timeout=KILLED_S)
            assert process.stderr is not None
            process.stderr.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(KILLED_S)
            if isinstance(error, subprocess.TimeoutExpired):
                return f"the alert command did not end within {COMMAND_S:g} s"
            raise
        last = words.decode(errors="replace").strip().splitlines()[-1:]
        code = process.returncode
        return f"the alert command ended with exit {code}: {''.join(last)}" if code else ""

    return send


def by_webhook(url: str) -> Send:
    """POSTs the alert. The address is a secret: no message of ours has it."""

    def send(alert: Alert) -> str:
        import http.client  # megabytes, for those who have a webhook
        import urllib.error
        import urllib.request

        headers = {"Content-Type": "application/json", "User-Agent": "adam"}
        try:
            request = urllib.request.Request(url, msgspec.json.encode(alert), headers)
            with urllib.request.urlopen(request, timeout=WEBHOOK_S):
                return ""
        except urllib.error.HTTPError as error:
            with error:
                return f"the alert webhook answered {error.code}"
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            return f"the alert webhook can't be reached: {type(getattr(error, 'reason', error)).__name__}"

    return send


def webhook_of(environ: Mapping[str, str]) -> str:
    """The webhook's address, from $ADAM_ALERT_WEBHOOK or systemd's credential; empty where there is none, or it is no http address."""
    credential = credential_path(WEBHOOK, environ)
    url = environ.get("ADAM_ALERT_WEBHOOK", "").strip() or (read_secret(credential) if credential else "")
    return url if url.startswith(("https://", "http://")) else ""
