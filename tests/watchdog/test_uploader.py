"""The uploader as a process: killed at random moments, stalled, and told of one checkpoint after another."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from fake_hub import REPO, FakeHub
from small_checkpoint import make_uploading_run, write_checkpoint

from adam.contract import schema
from adam.contract.clock import Stamp
from adam.contract.config_file import load_config, write_lock
from adam.contract.far import FAR_MANIFEST
from adam.contract.paths import RunPaths
from adam.watchdog.upload_words import Journal, Newest, Report, Sent
from adam.watchdog.uploader import Uploader

KILLS = 12


class Process:
    """An uploader, its parent this test."""

    def __init__(self, paths: RunPaths, hub: FakeHub) -> None:
        command = [sys.executable, "-P", "-m", "adam.watchdog.uploader", "--run", str(paths.root)]
        self.process = subprocess.Popen(
            [*command, "--parent", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **hub.environment},
            cwd="/",
        )

    def tell(self, step: int, *, final: bool = False) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode(Newest(f"step-{step:08d}-a01", final)) + b"\n")
        self.process.stdin.flush()

    def reports(self) -> Iterator[Report]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield msgspec.json.decode(line, type=Report)

    def wait_event(self) -> Report:
        return next(report for report in self.reports() if report.event is not None)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def paths(tmp_path: Path) -> RunPaths:
    return make_uploading_run(tmp_path / "run", repo=REPO)


def forget_the_wait(paths: RunPaths) -> None:
    """As if so much time had gone by that the uploader may try again."""
    journal = schema.load(paths.upload_journal, Journal)
    if journal is not None:
        schema.save(paths.upload_journal, msgspec.structs.replace(journal, tried=None, failure=None))


def test_an_upload_is_told_and_remembered(paths: RunPaths) -> None:
    write_checkpoint(paths, 40)
    with FakeHub() as hub:
        uploader = Process(paths, hub)
        uploader.tell(40)
        report = uploader.wait_event()
        uploader.kill()
        assert report.event.kind == "uploaded" and report.settled == "step-00000040-a01" and not report.note
        assert report.seen.weights == report.seen.state == "step-00000040-a01"
        again = Process(paths, hub)
        again.tell(40, final=True)
        assert next(report for report in again.reports() if report.settled).settled == "step-00000040-a01"
        again.kill()
        assert len(hub.pushes) == 1


def test_killed_at_random_moments_there_is_one_commit_a_checkpoint_and_nothing_torn(paths: RunPaths) -> None:
    rng = random.Random(4)
    with FakeHub() as hub:
        for number, step in enumerate((40, 60)):
            write_checkpoint(paths, step)
            for _ in range(KILLS // 2):
                uploader = Process(paths, hub)
                uploader.tell(step, final=True)
                time.sleep(rng.uniform(0.2, 2.2))  # a random moment is what is tried here
                uploader.kill()
                if paths.upload_journal.exists():
                    assert json.loads(paths.upload_journal.read_text())["schema"] == 1
                forget_the_wait(paths)
            uploader = Process(paths, hub)
            uploader.tell(step, final=True)
            next(report for report in uploader.reports() if report.settled)
            uploader.kill()
            assert [commit.title for commit in hub.pushes] == ["step 40", "step 60"][: number + 1]
            assert json.loads(hub.files[FAR_MANIFEST])["state"]["step"] == step


def test_a_hub_that_stands_still_is_given_up_and_tried_again_later(paths: RunPaths) -> None:
    config = load_config(paths.lock)
    upload = msgspec.structs.replace(config.upload, timeout_minutes=0.05)
    write_lock(paths.lock, msgspec.structs.replace(config, upload=upload))
    write_checkpoint(paths, 40)
    with FakeHub() as hub:
        hub.fault("POST", "/commit/", "stall", times=9)
        uploader = Process(paths, hub)
        uploader.tell(40)
        report = uploader.wait_event()
        uploader.kill()
    assert report.event.kind == "upload_waiting" and "did not end within 3 s" in report.event.text
    assert "uploads wait (1 in a row" in report.note and not report.settled


def test_a_refusal_is_told_once_and_settles_the_run(paths: RunPaths) -> None:
    write_checkpoint(paths, 40)
    with FakeHub() as hub:
        hub.fault("POST", "/commit/", 413, times=9)
        uploader = Process(paths, hub)
        uploader.tell(40, final=True)
        report = uploader.wait_event()
        uploader.kill()
        assert report.event.kind == "upload_failed" and report.event.facts["status"] == 413
        assert report.settled == "step-00000040-a01" and "until configuration or token have changed" in report.note
        asked = len(hub.requests)
        again = Process(paths, hub)
        again.tell(40, final=True)
        assert next(report for report in again.reports() if report.settled).event is None
        again.kill()
        assert len(hub.requests) == asked


def test_it_ends_with_its_watchdog(paths: RunPaths) -> None:
    with FakeHub() as hub:
        uploader = Process(paths, hub)
        assert next(uploader.reports())
        uploader.process.communicate(timeout=10)  # closes its stdin first
        assert uploader.process.returncode == 0


def test_a_journal_of_an_earlier_boot_is_kept_by_the_clocks_of_this_one(paths: RunPaths) -> None:
    """An uploader that dies each half hour, behind a wall clock that was put back a day, must not count its hour from zero each time."""
    paths.outbox.mkdir(exist_ok=True)
    config, here = load_config(paths.lock), Stamp(1e9, "this boot", 60.0)
    sent = Sent("step-00000040-a01", Stamp(1e9 + 86400.0, "the last boot", 9e4))
    schema.save(paths.upload_journal, Journal(where=f"hf://{REPO}", weights=sent))
    Uploader(paths, config, lambda: here, print)
    kept = schema.load(paths.upload_journal, Journal)
    assert kept.weights == Sent(sent.checkpoint, here)
    Uploader(paths, config, lambda: Stamp(0.0, "this boot", 1860.0), print)
    assert schema.load(paths.upload_journal, Journal) == kept
