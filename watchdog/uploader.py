"""The uploader: sends verified checkpoints to a far place, and never stands in anybody's way. A process of its own.

    python -P -m adam.watchdog.uploader --run DIR --parent PID

The watchdog says on stdin which checkpoint is the newest; each upload is a process of its own (`upload_job`), which is killed
where it takes too long; what came of it is told on stdout (`upload_words`) and kept in `outbox/journal.json`.
"""

import argparse
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from adam.contract import schema
from adam.contract.clock import Stamp, stamp
from adam.contract.config import Config
from adam.contract.config_file import config_digest, load_config
from adam.contract.durable import fsync_dir, human_bytes
from adam.contract.errors import DataError, run_main
from adam.contract.far import where_of
from adam.contract.hub_token import hub_token, token_mark
from adam.contract.paths import RunPaths
from adam.contract.process import die_with_parent
from adam.contract.records import UploadSeen
from adam.watchdog.follower import BEAT_S
from adam.watchdog.upload_policy import Rules, arrived, begun, decide, failed, in_boot_of, refused, settled
from adam.watchdog.upload_words import Event, Journal, Newest, Outcome, Report, Task, Trouble

ENDING_S = 10.0  # for a job to end that has told its outcome; and to be gone, once it is killed
PATIENCE_S, BYTES_PER_S = 1800.0, 1e6


class Job:
    """One upload under way."""

    def __init__(self, paths: RunPaths, task: Task, limit_s: float) -> None:
        self.task, self._limit_s = task, limit_s
        self._began = time.monotonic()
        command = [sys.executable, "-P", "-m", "adam.watchdog.upload_job", "--run", str(paths.root)]
        command += ["--parent", str(os.getpid()), "--checkpoint", task.checkpoint]
        command += ["--weights"] * task.weights + ["--state"] * task.state
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.out = self._process.stdout.fileno()

    def left_s(self) -> float:
        return self._began + self._limit_s - time.monotonic()

    def outcome(self) -> Outcome:
        """Of a job that has closed its stdout, or whose time is over: then it is killed."""
        late = self.left_s() <= 0
        answer = self._last_words(0.0 if late else ENDING_S)
        if late:
            return Outcome(trouble=Trouble(f"the upload did not end within {self._limit_s:.0f} s and was given up"))
        try:
            return msgspec.json.decode(answer, type=Outcome)
        except msgspec.DecodeError:
            code = self._process.returncode
            return Outcome(trouble=Trouble(f"the upload ended with exit code {code}: see logs/watchdog.log"))

    def _last_words(self, seconds: float) -> bytes:
        """What it has said; killed where it has not ended in `seconds`, and left alone where it does not even die."""
        for limit in (seconds, ENDING_S):
            try:
                return self._process.communicate(timeout=limit)[0]
            except subprocess.TimeoutExpired:
                self._process.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()
        return b""


class Uploader:
    """Args: `now` gives the time, `say` takes what the watchdog is to hear."""

    def __init__(
        self, paths: RunPaths, config: Config, now: Callable[[], Stamp], say: Callable[[Report], None]
    ) -> None:
        self._paths, self._upload, self._now, self._say = paths, config.upload, now, say
        upload = config.upload
        self._rules = Rules(
            where_of(upload), upload.every_minutes * 60, upload.state_every_hours * 3600, config.trainer.seed
        )
        self._newest: Newest | None = None
        self._note = ""
        known = recall(paths, self._rules.where)
        self._journal = in_boot_of(known, now())
        if self._journal != known:
            self._remember(self._journal)
        self.job: Job | None = None

    def hear(self, newest: Newest) -> None:
        self._newest = newest

    def key(self) -> str:
        """Marks the configuration and the token: a permanent trouble is tried again with another."""
        return config_digest(self._upload)[:12] + token_mark(hub_token())

    def turn(self) -> float:
        """Begin what is due, and report; the seconds until the next look, in which a token is seen that somebody has put in its place."""
        if self.job is not None:
            self.report()
            return max(0.0, min(BEAT_S, self.job.left_s()))
        decision = decide(self._rules, self._journal, self._newest, self.key(), self._now())
        if isinstance(decision, Task):
            self._remember(begun(self._journal, self._now()))
            self.job = Job(self._paths, decision, self._limit_s(decision))
            self.report()
            return min(BEAT_S, self.job.left_s())
        self.report()
        return BEAT_S if decision.seconds is None else min(BEAT_S, max(0.0, decision.seconds))

    def _limit_s(self, task: Task) -> float:
        if self._upload.timeout_minutes:
            return self._upload.timeout_minutes * 60
        places = [self._paths.checkpoints / task.checkpoint]
        places += [self._paths.shards, self._paths.tokens] if task.state else []
        size = sum(path.stat().st_size for place in places if place.is_dir() for path in place.iterdir())
        return PATIENCE_S + size / BYTES_PER_S

    def finish(self) -> None:
        """The job has ended, or is late: keep what came of it and tell."""
        assert self.job is not None
        job, self.job = self.job, None
        outcome = job.outcome()
        before = self._journal.failure
        if (trouble := outcome.trouble) is None:
            self._remember(arrived(self._journal, job.task, self._now()))
            self._note = outcome.note
            self.report(uploaded(self._rules.where, job.task, outcome))
            return
        self._remember(failed(self._rules, self._journal, trouble, self.key(), self._now()))
        failure = self._journal.failure
        assert failure is not None
        facts = {"checkpoint": job.task.checkpoint, "status": trouble.status}
        if failure.permanent:
            text = f"nothing is uploaded any more: {trouble.text}; it is tried again when configuration or token have changed"
            self.report(Event("upload_failed", text, {**facts, "class": "permanent"}))
        elif before is None or before.permanent:
            text = f"uploads wait, and are tried again by themselves: {trouble.text}"
            self.report(Event("upload_waiting", text, {**facts, "class": "temporary"}))
        else:
            self.report()

    def _remember(self, journal: Journal) -> None:
        self._journal = journal
        try:
            schema.save(self._paths.upload_journal, journal)
        except OSError as error:
            # What is not remembered is found again in the far place, before anything is sent.
            self._note = f"the journal of uploads can't be written: {error.strerror}"

    def report(self, event: Event | None = None) -> None:
        journal, now = self._journal, self._now()
        done = self.job is None and settled(self._rules, journal, self._newest, self.key(), now)
        seen = UploadSeen(
            where=self._rules.where,
            weights=journal.weights.checkpoint if journal.weights else "",
            weights_at=journal.weights.stamp if journal.weights else None,
            state=journal.state.checkpoint if journal.state else "",
            state_at=journal.state.stamp if journal.state else None,
        )
        self._say(
            Report(seen, self._note_now(), self._newest.checkpoint if self._newest is not None and done else "", event)
        )

    def _note_now(self) -> str:
        failure = self._journal.failure
        if failure is None:
            return self._note
        if refused(self._journal, self.key()):
            return f"nothing is uploaded until configuration or token have changed: {failure.text}"
        return f"uploads wait ({failure.count} in a row came to nothing): {failure.text}"


def uploaded(where: str, task: Task, outcome: Outcome) -> Event:
    what = " and ".join(["weights"] * task.weights + ["whole state"] * task.state)
    size = f"{human_bytes(outcome.size)} sent" if outcome.size else "it was there already"
    text = f"{what} of {task.checkpoint} are at {where} and were read back: {size}"
    facts = {"checkpoint": task.checkpoint, "weights": task.weights, "state": task.state}
    return Event("uploaded", text, {**facts, "bytes": outcome.size, "seconds": round(outcome.seconds, 3)})


def recall(paths: RunPaths, where: str) -> Journal:
    """The journal, where it is of this place; an empty one else: what is there is found before anything is sent."""
    try:
        journal = schema.load(paths.upload_journal, Journal)
    except DataError:
        journal = None
    return journal if journal is not None and journal.where == where else Journal(where=where)


def serve(uploader: Uploader) -> int:
    """Until stdin ends."""
    os.set_blocking(0, False)
    decoder, rest = msgspec.json.Decoder(Newest), b""
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        while True:
            timeout = uploader.turn()
            job = uploader.job
            if job is not None:
                selector.register(job.out, selectors.EVENT_READ)
            ready = {key.fd for key, _ in selector.select(timeout)}
            if job is not None:
                selector.unregister(job.out)
                if job.out in ready or job.left_s() <= 0:
                    uploader.finish()
            if 0 in ready:
                block = os.read(0, 65536)
                if not block:
                    return 0
                *lines, rest = (rest + block).split(b"\n")
                for line in lines:
                    uploader.hear(decoder.decode(line))


def say(report: Report) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    sys.stdout.buffer.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="uploader", description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="the run directory")
    parser.add_argument("--parent", type=int, required=True, help="end when this process does")
    arguments = parser.parse_args()
    die_with_parent(arguments.parent)
    paths = RunPaths(arguments.run)
    paths.outbox.mkdir(exist_ok=True)
    fsync_dir(paths.root)
    return serve(Uploader(paths, load_config(paths.lock), stamp, say))


if __name__ == "__main__":
    sys.exit(run_main("uploader", main))
