"""The keeper as the watchdog sees it: one request at a time, answers when they come, a new keeper when one dies."""

import selectors

import msgspec

from adam.contract.paths import RunPaths
from adam.contract.process import state_letter
from adam.contract.records import CheckpointSeen
from adam.contract.retention import Rules
from adam.watchdog.child import LineChild
from adam.watchdog.journal import Journal
from adam.watchdog.keeper_words import Answer, Commit, Look, Request, Settle
from adam.watchdog.policy_words import AskCommit, AskSettle, Settled
from adam.watchdog.retention import Kept

STOPPED = ("T", "t")  # by SIGSTOP or a debugger, proc(5)
STOPPED_S = 5.0
LOOK_AFTER_S = 10.0  # without a question since this watchdog began: reading a checkpoint must not delay an attempt that is about to start


def pause_s(deaths: int) -> float:
    return float(min(30.0, 0.25 * 2 ** (deaths - 1)))


class KeeperClient:
    """Asks, and keeps what the last answers said."""

    def __init__(
        self,
        paths: RunPaths,
        rules: Rules,
        selector: selectors.BaseSelector,
        journal: Journal,
        stderr: int,
        *,
        longest_s: float = 1800.0,
    ) -> None:
        self._longest_s = longest_s  # for one request
        arguments = ["adam.watchdog.keeper", "--run", str(paths.root)]
        arguments += ["--keep-last", str(rules.keep_last), "--milestone-every", str(rules.milestone_every)]
        arguments += ["--keep-every-hours", repr(rules.keep_every_hours)]
        self._child = LineChild(arguments, selector, pause_s, stderr)
        self._journal = journal
        self._decoder = msgspec.json.Decoder(Answer)
        self._asked: Request | None = None
        self._asked_at = 0.0
        self._began: float | None = None
        self.heard = False  # any answer: until then nothing is known of the checkpoints
        self.settled: Settled | None = None
        self.commit_trouble = ""
        self.checkpoints: tuple[Kept, ...] = ()
        self.newest: CheckpointSeen | None = None
        self.note = ""
        self.saves = 0
        self.commit_seconds, self.commit_bytes = 0.0, 0

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def idle(self) -> bool:
        return self._asked is None and self._child.pid > 0

    def busy_s(self, now: float) -> float:
        """Seconds since the request that it is busy with; 0.0 where it is idle."""
        return now - self._asked_at if self._asked is not None else 0.0

    def commit(self, ask: AskCommit, now: float) -> None:
        self._ask(Commit(ask.resumed, ask.durable_only), now)

    def settle(self, ask: AskSettle, now: float) -> None:
        self._ask(Settle(**msgspec.structs.asdict(ask)), now)

    def _ask(self, request: Request, now: float) -> None:
        self._asked, self._asked_at = request, now
        self._child.send(msgspec.json.encode(request))

    def attend(self, now: float) -> None:
        """Hear what it says, and start another one where it has died, or stands still and keeps somebody waiting."""
        pid = self._child.pid
        if (
            pid
            and self.busy_s(now) > STOPPED_S
            and (self.busy_s(now) > self._longest_s or state_letter(pid) in STOPPED)
        ):
            self._child.kill()
        for line in self._child.lines(now):
            self._hear(self._decoder.decode(line))
        if pid and not self._child.pid:
            self._journal.tell("keeper_restarted", f"the keeper (process {pid}) died; another one is started")
            if isinstance(self._asked, Commit):
                self.commit_trouble = "the keeper died while it committed a checkpoint"
            self._asked = None
        self._child.start_if_due(now)
        self._began = now if self._began is None else self._began
        if self.idle and not self.heard and now - self._began > LOOK_AFTER_S:
            self._ask(Look(), now)

    def end(self, now: float) -> None:
        self._child.end(now)

    def _hear(self, answer: Answer) -> None:
        self._asked, self.heard = None, True
        self.checkpoints, self.newest, self.note = answer.checkpoints, answer.newest, answer.note
        self.saves = max(self.saves, answer.saves)
        self._tell(answer)
        if answer.request == "settle":
            self.commit_trouble = ""
            self.settled = Settled(
                id=answer.id,
                checkpoints=answer.checkpoints,
                in_quarantine=answer.in_quarantine,
                trouble=answer.trouble,
                refused=answer.refused,
                snapshot=answer.snapshot,
            )
        elif answer.request == "commit":
            self._note_trouble(answer.trouble)

    def _note_trouble(self, trouble: str) -> None:
        if trouble and not self.commit_trouble:
            self._journal.tell("disk_full", trouble)
        elif self.commit_trouble and not trouble:
            self._journal.tell("disk_freed", "checkpoints are written again")
        self.commit_trouble = trouble

    def _tell(self, answer: Answer) -> None:
        for made in (*answer.milestones, *([answer.committed] if answer.committed else [])):
            self.commit_seconds, self.commit_bytes = made.seconds, made.size * (1 + made.staged)
            text = f"checkpoint {made.name} is verified on disk"
            facts = {"step": made.step, "why": made.why, "bytes": made.size, "seconds": round(made.seconds, 3)}
            self._journal.tell("checkpoint", text, **facts)
        for item in answer.dropped:
            self._journal.tell("dropped", f"{item.name} is not committed: {item.reason}", slot=item.name)
        for item in answer.quarantined:
            self._journal.tell("quarantined", f"{item.name}: {item.reason}", checkpoint=item.name)
        if answer.pruned:
            self._journal.tell("pruned", "deleted by retention: " + ", ".join(answer.pruned))
