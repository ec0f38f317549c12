"""A Hub that refuses, breaks off, stands still or never answers, beside a real run: training does not notice, and what can arrive does."""

from collections.abc import Iterator
from typing import Any

import pytest
from fake_hub import REPO, FakeHub
from fault_table import Row, record
from real_run import CONFIG, RealRun, wait_for

from adam.contract.clock import boottime_ns

REFUSALS = [
    (401, "GET", "/api/models/"),
    (403, "POST", "/commit/"),
    (404, "GET", "/api/models/"),
    (413, "POST", "/commit/"),
]
PASSING: list[tuple[int | str, str]] = [
    (429, "the Hub answers 429 (too many requests)"),
    (500, "the Hub answers 500"),
    ("reset", "the Hub breaks the connection off"),
    ("stall", "the Hub stands still in the middle of a commit"),
    ("lost", "a commit is made, and its answer never arrives"),
]
UPLOAD = f'\n[upload]\nrepo = "{REPO}"\nevery_minutes = 1\nstate_every_hours = 0\ntimeout_minutes = 0.25\n'
SHORT, LONG = 60, 900


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as hub:
        for name, value in hub.environment.items():
            monkeypatch.setenv(name, value)
        yield hub


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Iterator[dict[int, RealRun]]:
    runs = {}
    for steps in (SHORT, LONG):
        runs[steps] = RealRun(tmp_path_factory.mktemp("undisturbed") / "run", steps=steps)
        runs[steps].adamctl("up", "--wait", timeout=300)
    yield runs
    for run in runs.values():
        run.end()


@pytest.mark.campaign
@pytest.mark.parametrize(("status", "method", "part"), REFUSALS)
def test_a_refusal_is_told_once_and_kept(
    new_run, hub: FakeHub, undisturbed, status: int, method: str, part: str
) -> None:
    hub.fault(method, part, status, times=10**6)
    run = new_run(steps=SHORT, config=CONFIG + UPLOAD)
    run.adamctl("up")
    assert run.wait_final() == "finished", run.logs()
    (failed,) = run.events("upload_failed")
    assert f"answers {status}" in failed["text"] and run.losses() == undisturbed[SHORT].losses()
    done = "told once; kept, and tried again when token or configuration have changed"
    record(Row(f"the Hub answers {status}", f"upload: {failed['facts']['class']}", None, done, None))


@pytest.mark.campaign
@pytest.mark.timeout(1800)
def test_what_passes_is_tried_again_until_it_arrives(new_run, hub: FakeHub, undisturbed) -> None:
    run = new_run(steps=LONG, config=CONFIG + UPLOAD)
    run.up_with("--slow", "0.9")
    rows = [until_it_arrives(run, hub, what, fault) for what, fault in PASSING]
    assert run.wait_final(900) == "finished", run.logs()
    assert run.losses() == undisturbed[LONG].losses() and not run.events("crashed")
    titles = [commit.title for commit in hub.pushes]
    assert len(titles) == len(set(titles)), "one commit a checkpoint"
    for row in rows:
        record(row)


def until_it_arrives(run: RealRun, hub: FakeHub, what: int | str, fault: str) -> Row:
    at = boottime_ns() / 1e9
    asked = hub.fault("POST", "/commit/", what)
    wait_for(f"a commit that meets {what}", lambda: not asked.left, 240)
    met = boottime_ns() / 1e9
    uploaded = wait_for("what arrives", lambda: later(run, "uploaded", at), 300)
    waiting = later(run, "upload_waiting", at)
    if what == "lost":
        assert not [event for event in waiting if event["boottime"] > uploaded[0]["boottime"]]
        return Row(fault, "upload: not known", None, "looked up, and not sent twice", None)
    seen = f"upload: {waiting[0]['facts']['class']}"
    return Row(
        fault,
        seen,
        waiting[0]["boottime"] - met,
        "tried again at growing intervals, always with the newest checkpoint",
        None,
    )


def later(run: RealRun, kind: str, since: float) -> list[dict[str, Any]]:
    return [event for event in run.events(kind) if event["boottime"] >= since]
