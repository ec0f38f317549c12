"""The uploader as the watchdog sees it: told the newest verified checkpoint, heard when it has something to say."""

import selectors

import msgspec

from adam.contract.config import Upload
from adam.contract.far import where_of
from adam.contract.paths import RunPaths
from adam.contract.process import state_letter
from adam.contract.records import CheckpointSeen, UploadSeen
from adam.watchdog.child import LineChild, Quiet
from adam.watchdog.follower import BEAT_S
from adam.watchdog.journal import Journal
from adam.watchdog.upload_words import Newest, Report

SILENT_S = 6 * BEAT_S
STOPPED = ("T", "t")  # by SIGSTOP or a debugger, proc(5)
STOPPED_S = 5.0
HOPELESS = 5  # deaths in a row, without a word, after which a finished run no longer waits for it


def pause_s(deaths: int) -> float:
    return float(min(300.0, 0.5 * 2 ** (deaths - 1)))


class UploaderClient:
    """`seen` and `note` are for the status. Where no upload is configured there is no process, and nothing is pending."""

    def __init__(
        self, paths: RunPaths, upload: Upload, selector: selectors.BaseSelector, journal: Journal, stderr: int
    ) -> None:
        self._child: LineChild | None = None
        self.seen: UploadSeen | None = None
        if upload.wanted:
            self._child = LineChild(["adam.watchdog.uploader", "--run", str(paths.root)], selector, pause_s, stderr)
            self.seen = UploadSeen(where_of(upload))
        self._journal = journal
        self._decoder = msgspec.json.Decoder(Report)
        self._quiet = Quiet()
        self._said: Newest | None = None
        self._settled = ""
        self.note = ""
        self.pending = False

    @property
    def pid(self) -> int:
        return self._child.pid if self._child else 0

    def attend(self, newest: CheckpointSeen | None, finished: bool, now: float, *, known: bool) -> None:
        """Hear it, start it where it is due, and tell it of `newest`; `finished`: no other will follow.

        Until it is `known` what checkpoints there are, something may be pending.
        """
        if self._child is None:
            return
        self._quiet.look(now)
        for line in self._child.lines(now):
            self._hear(self._decoder.decode(line))
        if self._child.pid and self._stands_still(self._child.pid):
            self._replace(self._child, now)
        if self._child.start_if_due(now):
            self._said = None
            self._quiet.heard()
        word = Newest(newest.name, finished) if newest is not None else None
        if word is not None and word != self._said and self._child.pid:
            self._said, self._settled = word, ""
            self._child.send(msgspec.json.encode(word))
        hopeless = self._child.deaths >= HOPELESS
        unsettled = not known if word is None else self._settled != word.checkpoint
        self.pending = unsettled and not hopeless

    def _stands_still(self, pid: int) -> bool:
        quiet = self._quiet.seconds
        return quiet > SILENT_S or (quiet > STOPPED_S and state_letter(pid) in STOPPED)

    def _replace(self, child: LineChild, now: float) -> None:
        """Its job dies with it; what the two had done is in the journal and at the far place, and is found there by the next one."""
        text = f"the uploader (process {child.pid}, state {state_letter(child.pid)}) has said nothing for {self._quiet.seconds:.0f} s"
        self._journal.tell("uploader_restarted", f"{text} and is killed; another one is started", pid=child.pid)
        child.end(now)

    def end(self, now: float) -> None:
        if self._child is not None:
            self._child.end(now)

    def _hear(self, report: Report) -> None:
        self._quiet.heard()
        self.seen, self.note, self._settled = report.seen, report.note, report.settled
        if (event := report.event) is not None:
            self._journal.tell(event.kind, event.text, **event.facts)
