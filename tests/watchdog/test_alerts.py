"""Alerts: what is told and what is counted, and targets that fail, hang and come back."""

import errno
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adam.contract.clock import Stamp, stamp
from adam.contract.config import Alerts, Config, contradictions
from adam.contract.config_file import write_lock
from adam.contract.durable import LineAppender
from adam.contract.events import Event, event
from adam.contract.paths import RunPaths
from adam.contract.records import encode_line
from adam.contract.states import RunState
from adam.watchdog import alert_send
from adam.watchdog.alert_rules import FINAL, HOUR_S, AlertMemory, AlertRules, hear, summary
from adam.watchdog.alert_send import Alert, by_command, by_webhook, webhook_of
from adam.watchdog.alerter import Alerter, Courier, read_offsets

RULES = AlertRules(frozenset({"crashed", "failed", "hung"}), per_hour=4, repeat_s=600.0)
NOW = Stamp(wall=1.0, boottime=1.0, boot_id="b")


def crash(failure: str = "host") -> Event:
    return event("crashed", f"trainer: {failure}", NOW, failure=failure)


def test_the_same_thing_is_told_once_and_then_how_often_it_was_not() -> None:
    memory, text = hear(RULES, AlertMemory(), crash(), 0.0)
    assert text == "trainer: host"
    for at in (10.0, 20.0):
        memory, text = hear(RULES, memory, crash(), at)
        assert text == ""
    memory, text = hear(RULES, memory, crash("disk"), 30.0)
    assert text == "trainer: disk", "another failure is another thing"
    memory, text = hear(RULES, memory, crash(), 601.0)
    assert text == "trainer: host (2 more like it were not told)"
    assert hear(RULES, memory, event("checkpoint", "saved", NOW), 602.0) == (memory, "")


def test_what_was_withheld_is_told_in_sum_and_then_forgotten() -> None:
    memory = AlertMemory()
    for at in (0.0, 10.0, 20.0):
        memory, _ = hear(RULES, memory, crash(), at)
    assert summary(RULES, memory, 599.0)[1] == ""
    memory, text = summary(RULES, memory, 600.0)
    assert text == "trainer: host (last of 2 that were not told)"
    memory, text = summary(RULES, memory, 1300.0)
    assert (memory.told, text) == ({}, "")


def test_the_end_is_told_whatever_was_told_before() -> None:
    memory = AlertMemory()
    for number in range(9):
        memory, _ = hear(RULES, memory, crash(str(number)), float(number))
    assert hear(RULES, memory, event("failed", "it is over", NOW), 10.0)[1] == "it is over"


@given(
    st.lists(st.tuples(st.floats(0, 400), st.sampled_from(["a", "b", "c", "d", "e", "f"]), st.booleans()), max_size=200)
)
def test_never_more_than_so_many_an_hour_and_nothing_is_lost(steps: list[tuple[float, str, bool]]) -> None:
    memory, now, sent, heard, counted = AlertMemory(), 0.0, [], 0, 0
    for pause, failure, looks in steps:
        now += pause
        before = sum(told.withheld for told in memory.told.values())
        if looks:
            memory, text = summary(RULES, memory, now)
            counted += before - sum(told.withheld for told in memory.told.values())
        else:
            heard += 1
            memory, text = hear(RULES, memory, crash(failure), now)
            counted += bool(text) + max(0, before - sum(told.withheld for told in memory.told.values()))
        sent += [now] if text else []
    assert all(len([at for at in sent if last - HOUR_S < at <= last]) <= RULES.per_hour for last in sent)
    assert counted + sum(told.withheld for told in memory.told.values()) == heard


def test_a_kind_that_is_none_is_refused() -> None:
    found = contradictions(Config(alerts=Alerts(kinds=("crashed", "crushed"))))
    assert len(found) == 1 and 'alerts.kinds has "crushed"' in found[0]
    assert contradictions(Config()) == [] and set(Alerts().kinds) >= FINAL


def test_a_command_gets_the_alert_and_tells_why_it_failed(tmp_path, monkeypatch) -> None:
    alert = Alert("it hangs", "/r", "hung", "t", {"step": 3})
    out = tmp_path / "out"
    assert by_command(f'cat > {out}; echo "$ADAM_ALERT" >> {out}')(alert) == ""
    first, second = out.read_text().splitlines()
    assert json.loads(first) == {"text": "it hangs", "run": "/r", "kind": "hung", "time": "t", "facts": {"step": 3}}
    assert second == "it hangs"
    assert by_command("echo no such pager >&2; exit 3")(alert) == "the alert command ended with exit 3: no such pager"
    monkeypatch.setattr(alert_send, "COMMAND_S", 0.1)
    assert "did not end within" in by_command("sleep 60; true")(alert)


class Hook(http.server.BaseHTTPRequestHandler):
    answers: list[int]
    got: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        code = self.answers.pop(0) if self.answers else 200
        if code == 200:
            self.got.append(body)
        self.send_response(code)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[tuple[str, type[Hook]]]:
    kind = type("Mine", (Hook,), {"answers": [], "got": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/secret-path", kind
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_webhook_that_fails_is_tried_again_and_its_address_is_never_told(tmp_path, hook) -> None:
    url, server = hook
    server.answers[:] = [500, 429, 404]
    events = tmp_path / "events.jsonl"
    file = LineAppender(events)
    for failure in ("host", "disk"):
        file.append(encode_line(crash(failure)))
    courier = Courier(by_webhook(url), RULES, "/r", 0)
    now, troubles = 0.0, []
    while len(server.got) < 2:
        courier.go_on(events, now)
        troubles.append(courier.trouble)
        now += 1.0
        assert now < 100
    assert [body["text"] for body in server.got] == ["trainer: host", "trainer: disk"], "in order, and each once"
    assert {
        "the alert webhook answered 500",
        "the alert webhook answered 429",
        "the alert webhook answered 404",
    } <= set(troubles)
    assert courier.trouble == "" and courier.offset == events.stat().st_size
    assert 5 + 10 + 20 <= now <= 5 + 10 + 20 + 4, "at growing intervals"
    away = by_webhook("http://127.0.0.1:1/secret-path")(Alert("x", "/r", "hung", "t", {}))
    assert away == "the alert webhook can't be reached: ConnectionRefusedError"


def test_where_the_webhook_stands(tmp_path) -> None:
    (tmp_path / "alert_webhook").write_text("https://b/x\n")
    assert webhook_of({"ADAM_ALERT_WEBHOOK": "https://a/x"}) == "https://a/x"
    assert webhook_of({"CREDENTIALS_DIRECTORY": str(tmp_path)}) == "https://b/x"
    assert (
        webhook_of({"CREDENTIALS_DIRECTORY": "/nowhere"})
        == ""
        == webhook_of({"ADAM_ALERT_WEBHOOK": "file:///etc/passwd"})
    )


def alerter(paths: RunPaths, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "adam.watchdog.alerter", "--run", str(paths.root), *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_a_killed_alerter_tells_nothing_twice_and_forgets_nothing(paths, tmp_path, await_) -> None:
    out = tmp_path / "told"
    write_lock(paths.lock, Config(alerts=Alerts(command=f"cat >> {out}")))
    file = LineAppender(paths.events)
    file.append(encode_line(event("stopped", "long ago", stamp())))
    begin = str(paths.events.stat().st_size)
    told: list[str] = []
    for number in range(3):
        process = alerter(paths, "--begin", begin, "--parent", str(os.getpid()))
        await_(paths.alerts.exists if number == 0 else lambda: True, 10)
        file.append(encode_line(event("stopped", f"stop {number}", stamp())))
        told.append(f"stop {number}")
        await_(lambda: out.exists() and len(out.read_text().splitlines()) == len(told), 10)
        await_(lambda: read_offsets(paths).get("command") == paths.events.stat().st_size, 10)
        process.kill()
        process.communicate()
    file.append(encode_line(event("failed", "while it was dead", stamp())))
    last = alerter(paths, "--parent", str(os.getpid()))
    last.communicate(timeout=20)  # its stdin is closed: it sends what is left, and ends
    assert [json.loads(line)["text"] for line in out.read_text().splitlines()] == [*told, "while it was dead"]


def test_a_target_that_a_run_gets_in_its_middle_is_not_told_its_past(paths, tmp_path, capsysbinary) -> None:
    file, told = LineAppender(paths.events), {"command": [], "webhook": []}
    sends = {name: lambda alert, name=name: told[name].append(alert.text) or "" for name in told}
    file.append(encode_line(event("failed", "long ago", stamp())))
    Alerter(paths, Alerts(), {"command": sends["command"]}, paths.events.stat().st_size)  # and is killed
    file.append(encode_line(event("failed", "before", stamp())))
    begin = paths.events.stat().st_size
    Alerter(paths, Alerts(), {"command": sends["command"]}, begin).turn(0.0)
    both = Alerter(paths, Alerts(), sends, begin)
    both.turn(0.0)
    file.append(encode_line(event("failed", "after", stamp())))
    both.turn(1.0)
    assert told == {"command": ["before", "after"], "webhook": ["after"]}


def test_a_full_disk_does_not_end_the_alerter(paths, monkeypatch) -> None:
    """What it has told is remembered when there is room again."""
    LineAppender(paths.events).append(encode_line(crash()))
    LineAppender(paths.events).append(encode_line(crash("disk")))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("adam.contract.schema.save_reserved", full)
        alerter = Alerter(paths, Alerts(), {"command": lambda alert: ""}, 0)
        alerter.turn(0.0)
        assert read_offsets(paths) == {}
    alerter.turn(1.0)
    assert read_offsets(paths) == {"command": paths.events.stat().st_size}


def test_the_test_of_alerts(paths, tmp_path) -> None:
    write_lock(paths.lock, Config(alerts=Alerts(command=f"cat >> {tmp_path / 'told'}")))
    process = alerter(paths, "--test")
    assert process.communicate(timeout=20)[0] == b"command: sent\n" and process.returncode == 0
    write_lock(paths.lock, Config(alerts=Alerts(command="exit 4")))
    process = alerter(paths, "--test")
    assert (
        process.communicate(timeout=20)[0].startswith(b"command: the alert command ended with exit 4")
        and process.returncode == 1
    )


def test_a_run_that_ends_says_so_and_a_hanging_command_holds_nobody_up(box, tmp_path) -> None:
    told = tmp_path / "told"
    box.alerts = Alerts(command=f"cat >> {told}; test -e {tmp_path / 'go'} || sleep 600", kinds=("crashed", "finished"))
    box.configure("60:signal=9@1", step_ms=5)
    box.up()
    box.await_state(RunState.FINISHED)
    box.check_losses(200)
    box.process.wait(15)
    assert [json.loads(line)["kind"] for line in told.read_text().splitlines()] == ["crashed"]
    (tmp_path / "go").touch()
    last = alerter(box.paths, "--parent", str(os.getpid()))
    last.communicate(timeout=20)
    assert [json.loads(line)["kind"] for line in told.read_text().splitlines()] == ["crashed", "crashed", "finished"]
