"""Followers as the watchdog sees them: they die, hang, lack packages, and never hold it up."""

import os
import selectors
import signal
import time
from pathlib import Path

import pytest

from adam.contract.config import Alerts, Config, Sinks
from adam.watchdog import followers
from adam.watchdog.follower import BEAT_S, Patience
from adam.watchdog.followers import MISSING_AGAIN_S, SILENT_S, Follower, Followers, followers_of

# Says the line of its first argument, then reads stdin to its end, or (hang) never ends.
STAND_IN = """
import signal, sys
words, manner = sys.argv[1:3]
if words:
    print(words, flush=True)
if manner == "hang":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        signal.pause()
if manner == "wait":
    sys.stdin.read()
"""


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    made: list[Follower] = []

    def make(words: str, manner: str, name: str = "it") -> Follower:
        made.append(Follower(name, ["stand_in", words, manner], selectors.DefaultSelector(), 2, silent_s=SILENT_S))
        return made[-1]

    yield make
    for follower in made:
        follower.finish(0.0, 0.0)


def attend_until(await_, follower: Follower, look, now: float = 100.0) -> None:
    def attended() -> bool:
        follower.attend(now)
        return bool(look())

    await_(attended, 10)


def test_what_it_says_is_the_note(make, await_) -> None:
    follower = make('{"trouble":"no room"}', "wait", "the sink x")
    attend_until(await_, follower, lambda: follower.note == "the sink x: no room")
    nameless = make('{"trouble":"no room"}', "wait", "")
    attend_until(await_, nameless, lambda: nameless.note == "no room")


@pytest.mark.parametrize("noise", ["* Trackio warning: a disk of the network", "{", '{"trouble":1}', "[]", "\xff"])
def test_what_a_library_prints_is_no_word_and_hurts_nobody(make, await_, noise) -> None:
    follower = make(f'{noise}\n{{"trouble":"no room"}}', "wait")
    attend_until(await_, follower, lambda: follower.note == "it: no room")


def test_one_that_died_is_started_again_a_little_later(make, await_) -> None:
    follower = make("{}", "wait")
    follower.attend(100.0)
    first = follower.pid
    os.kill(first, signal.SIGKILL)
    attend_until(await_, follower, lambda: follower.note == "it: it died, and is started again")
    assert not follower.pid
    attend_until(await_, follower, lambda: follower.pid not in (0, first), 102.0)
    attend_until(await_, follower, lambda: follower.note == "", 102.0)


def test_one_without_its_package_ends_and_is_tried_again_much_later(make, await_) -> None:
    follower = make('{"trouble":"no package","missing":true}', "end")
    attend_until(await_, follower, lambda: follower.note and not follower.pid)
    follower.attend(100.0 + MISSING_AGAIN_S - 1)
    assert (follower.note, follower.pid) == ("it: no package", 0)
    follower.attend(100.0 + MISSING_AGAIN_S)
    assert follower.pid


def test_one_that_says_nothing_any_more_is_killed(make, await_) -> None:
    follower = make("{}", "hang")
    now = 100.0
    attend_until(await_, follower, lambda: follower.pid)
    pid = follower.pid
    follower.attend(now + 1000)  # we slept, not it: a tick counts for a second
    while follower.note == "":
        now += 1
        follower.attend(now)
        assert now < 100 + 3 * SILENT_S
    assert now - 100 >= SILENT_S - 2 > 5 * BEAT_S
    assert follower.note == f"it: it did not answer for {SILENT_S:g} s, and is started again"
    attend_until(await_, follower, lambda: not follower.pid, now)
    assert "did not answer" in follower.note
    follower.attend(now + 400)
    assert follower.pid not in (0, pid)
    attend_until(await_, follower, lambda: follower.note == "", now + 400)


def test_the_end_waits_for_all_of_them_together(make, await_, monkeypatch) -> None:
    monkeypatch.setattr(followers, "LAST_WORDS_S", 1.0)
    several = [make("{}", manner) for manner in ("hang", "hang", "wait")]
    for follower in several:
        attend_until(await_, follower, lambda follower=follower: follower.pid)
    pids = [follower.pid for follower in several]
    began = time.monotonic()
    Followers(several).end(200.0)
    assert time.monotonic() - began < 20
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_nobody_is_started_who_is_not_wanted(paths) -> None:
    def names(config: Config, **environ: str) -> list[str]:
        return [item._name for item in followers_of(paths, config, environ, selectors.DefaultSelector(), 2)._all]

    assert names(Config()) == []
    sinks = Sinks(prometheus_port=9464, tensorboard=True, trackio="p")
    assert names(Config(sinks=sinks)) == ["the sink prometheus", "the sink tensorboard", "the sink trackio"]
    assert names(Config(), ADAM_ALERT_WEBHOOK="https://a/x") == names(Config(alerts=Alerts(command="true"))) == [""]


def test_patience_grows_up_to_its_limit_and_is_new_after_a_success() -> None:
    patience, waits = Patience(2.0, 10.0), []
    for _ in range(5):
        patience.failed(100.0)
        waits.append(next(s for s in range(100) if patience.allows(100.0 + s)))
    assert waits == [2, 4, 8, 10, 10]
    patience.went_well()
    assert patience.allows(0.0)
