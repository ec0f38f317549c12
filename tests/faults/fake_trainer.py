"""A trainer without torch, a few milliseconds a step: pulse, control word, slots, steps.jsonl and exit codes as in the protocol.

    python fake_trainer.py [--step-ms N] [--do STEP:ACTION[@ATTEMPT]]… [--data POSITION:HARM]… [--fits N] --run DIR

Its weights are a chain of hashes, so each loss depends on every step before it: a wrong resume shows at once. ACTION is
`exit=N`, `signal=N`, `stop` (SIGSTOP itself), `hang` (alive, no progress), `raise`; without @ATTEMPT it is done by every attempt.
HARM is what training on the data at POSITION does: `nan` (a loss that is not finite: exit code 7) or `spike` (weights that give high losses
from then on). A micro-batch above that of --fits is out of memory: exit code 8.
"""

import argparse
import faulthandler
import hashlib
import os
import signal
import sys
import time
from pathlib import Path

from adam.contract import schema
from adam.contract.checkpoints import rank_file
from adam.contract.clock import boottime_ns
from adam.contract.config_file import load_config
from adam.contract.durable import LineAppender
from adam.contract.errors import run_main
from adam.contract.paths import RunPaths
from adam.contract.ram import claim
from adam.contract.records import Numerics, Plan, StepRow, encode_line
from adam.contract.shared import Control, Pulse, SharedWord
from adam.contract.slots import SlotHead, SlotWriter, TensorEntry, read_head
from adam.contract.snapshots import slot_path
from adam.contract.states import Exit, Phase
from adam.contract.sums import check_sums, page_sum

REPEAT = 2048  # weights: one hash, many times over
SPOILT = b"BAD!"  # how weights begin that were trained on harmful data, and all that come of them
START = hashlib.sha256(b"start").digest()
ENTRY = TensorEntry("weights", "U8", (32 * REPEAT,))


class FakeTrainer:
    def __init__(self, paths: RunPaths, step_s: float, mischief: list[str], harm: dict[int, str], fits: int) -> None:
        self.paths, self.step_s, self.mischief = paths, step_s, mischief
        plan = schema.load(paths.plan, Plan)
        assert plan is not None and plan.program == "trainer"
        assert plan.token == int(os.environ["ADAM_TOKEN"]) and plan.attempt == int(os.environ["ADAM_ATTEMPT"])
        self.plan, self.config, self.harm, self.fits = plan, load_config(paths.lock), harm, fits
        self.micro_batch = plan.micro_batch or self.config.trainer.micro_batch
        self.stopping = False
        signal.signal(signal.SIGTERM, self.on_term)
        faulthandler.register(signal.SIGUSR1, paths.log("stacks").open("a"), all_threads=True)
        self.pulse = SharedWord(paths.pulse("0"), Pulse, write=True)
        self.fields: dict[str, int] = {"pid": os.getpid(), "attempt": plan.attempt, "token": plan.token}
        self.count = 0
        self.beat(Phase.LOADING)
        self.steps_log = LineAppender(paths.steps)
        self.in_ram = self.config.checkpoint.ram == "auto"
        self.sequence = self.saves = self.due = self.durable = 0
        self.control_word: SharedWord[Control] | None = None
        self.step, self.position, self.weights = self.load()
        self.tell_numerics()
        place = claim(paths) if self.in_ram else paths.staging
        place.mkdir(parents=True, exist_ok=True)
        # The oldest first: the snapshot that this attempt began from is the last to be written over.
        began = Path(plan.resume.slot) if plan.resume else None
        slots = sorted((slot_path(place, number) for number in range(3)), key=lambda slot: slot == began)
        self.slots = [self.open_slot(slot) for slot in slots]
        self.newest_durable: SlotWriter | None = None

    def open_slot(self, slot: Path) -> SlotWriter:
        slot.mkdir(exist_ok=True)
        return SlotWriter(slot / rank_file(0), [ENTRY])

    def on_term(self, *_: object) -> None:
        self.stopping = True

    def tell_numerics(self) -> None:
        parts = {"micro_batch": str(self.micro_batch)}
        told = Numerics(attempt=self.plan.attempt, step=self.step, fingerprint=str(parts), parts=parts)
        schema.save(self.paths.numerics, told)

    def load(self) -> tuple[int, int, bytes]:
        """Step, data position, weights."""
        resume = self.plan.resume
        if resume is None:
            return 0, 0, START
        directory = Path(resume.slot) if resume.slot else self.paths.checkpoints / resume.checkpoint
        path = directory / rank_file(0)
        found = read_head(path)
        assert found is not None and found[0].step == resume.step
        check_sums(path, *found)
        data = path.read_bytes()[found[1]["weights"].start :]
        return resume.step, found[0].samples, data[:32]

    def beat(self, phase: Phase, **fields: int) -> None:
        if self.fields.get("phase") != phase:
            self.fields |= {"phase": phase, "phase_entered_ns": boottime_ns()}
        self.count += 1
        self.fields |= fields
        self.pulse.write(Pulse(progress_ns=boottime_ns(), progress=self.count, **self.fields))

    def control(self) -> Control:
        if self.control_word is None:
            if not self.paths.control.exists():
                return Control()
            self.control_word = SharedWord(self.paths.control, Control, write=False)
        word = self.control_word.read()
        return word if word is not None and word.token == self.plan.token else Control()

    def misbehave(self) -> None:
        for item in self.mischief:
            place, _, attempt = item.partition("@")
            step, _, action = place.partition(":")
            if int(step) != self.step or (attempt and int(attempt) != self.plan.attempt):
                continue
            kind, _, value = action.partition("=")
            if kind == "exit":
                print(f"fake trainer: ends with {value} at step {step}", file=sys.stderr, flush=True)
                os._exit(int(value))
            elif kind == "signal":
                os.kill(os.getpid(), int(value))
            elif kind == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            elif kind == "hang":
                while True:
                    time.sleep(1)
            elif kind == "raise":
                raise RuntimeError(f"a fault at step {step}")

    def save(self, why: str) -> None:
        self.beat(Phase.SAVING)
        # Never the newest; the newest durable one, which the keeper may not have seen yet, only if there is no other.
        free = sorted(self.slots[:-1], key=lambda slot: slot is self.newest_durable)
        slot = next((slot for slot in free if slot.begin()), None)
        if slot is None:
            return
        data = self.weights * REPEAT
        slot.buffer("weights")[:] = data
        self.sequence += 1
        self.slots.remove(slot)
        self.slots.append(slot)
        wanted, self.due = self.control().saves, self.control().due
        durable = why != "ram"
        self.newest_durable = slot if durable else self.newest_durable
        slot.complete(
            SlotHead(
                run=self.paths.identity,
                attempt=self.plan.attempt,
                token=self.plan.token,
                sequence=self.sequence,
                step=self.step,
                tokens=self.step * 16,
                samples=self.position,
                saves=wanted,
                why=why,
                parent=self.plan.resume.checkpoint if self.plan.resume else "",
                fingerprint="fake",
                config_digest="fake",
                durable=durable,
                state={"step": self.step},
                sums={"weights": page_sum([data])},
            )
        )
        self.saves = wanted
        self.durable += durable
        self.beat(Phase.SAVING, snapshots=self.sequence, saves=wanted, durable=self.durable, snapshot_step=self.step)

    def train(self) -> int:
        saved = self.step
        self.beat(Phase.TRAINING, step=self.step)
        self.beat(Phase.TRAINING)
        while self.step < self.config.trainer.steps:
            self.misbehave()
            control = self.control()
            if self.stopping or control.stop:
                if saved != self.step:
                    self.save("stop")
                self.beat(Phase.ENDING)
                return Exit.STOPPED
            if control.pause:
                self.beat(Phase.PAUSED)
                time.sleep(0.05)
                continue
            began = time.monotonic()
            time.sleep(self.step_s)
            if not self.update(began):
                return Exit.NUMERIC
            if why := self.due_now(control):
                self.save(why)
                saved = self.step if why != "ram" else saved
                self.beat(Phase.TRAINING)
        if saved != self.step:
            self.save("final")
        self.beat(Phase.ENDING)
        return Exit.OK

    def due_now(self, control: Control) -> str:
        if control.saves > self.saves:
            return "request"
        if control.due > self.due or self.step % (self.config.checkpoint.every_steps or 10**9) == 0:
            return "interval"
        return "ram" if self.in_ram else ""

    def update(self, began: float) -> bool:
        """One update, logged. False where its loss is not finite: nothing has changed then."""
        if self.micro_batch > self.fits:
            print(f"fake trainer: out of memory with {self.micro_batch} samples at once", file=sys.stderr, flush=True)
            os._exit(Exit.MEMORY)
        first, used = self.position, skipped_to(self.position, self.plan.skip)
        harm = self.harm.get(used, "")
        self.log_update(began, first, used + 1, updated(self.weights, used, harm), finite=harm != "nan")
        if harm == "nan":
            print(f"fake trainer: step {self.step + 1}: loss nan", file=sys.stderr, flush=True)
            return False
        self.step, self.position, self.weights = self.step + 1, used + 1, updated(self.weights, used, harm)
        self.beat(Phase.TRAINING, step=self.step, micro_step=self.step)
        return True

    def log_update(self, began: float, first: int, end: int, weights: bytes, *, finite: bool) -> None:
        self.steps_log.append(
            encode_line(
                StepRow(
                    attempt=self.plan.attempt,
                    step=self.step + 1,
                    tokens=(self.step + 1) * 16,
                    first_sample=first,
                    end_sample=end,
                    loss=loss_of(weights) if finite else None,
                    grad_norm=1.0,
                    lr=1e-3,
                    step_s=time.monotonic() - began,
                    data_wait_s=0.0,
                    wall=time.time(),
                    boottime=boottime_ns() / 1e9,
                )
            )
        )


def skipped_to(position: int, skip: tuple[tuple[int, int], ...]) -> int:
    """The next data position from `position` on that is not left out."""
    for start, end in sorted(skip):
        position = end if start <= position < end else position
    return position


def updated(weights: bytes, position: int, harm: str = "") -> bytes:
    """The weights after an update with the data at `position`."""
    found = hashlib.sha256(weights + str(position + 1).encode()).digest()
    return SPOILT + found[4:] if harm or weights.startswith(SPOILT) else found


def loss_of(weights: bytes) -> float:
    return int.from_bytes(weights[:6], "little") / 2**48 + (20.0 if weights.startswith(SPOILT) else 0.0)


def losses(steps: int, skip: tuple[tuple[int, int], ...] = ()) -> list[float]:
    """The losses of an undisturbed run without the data at `skip`, by step from 1."""
    weights, found, position = START, [], 0
    for _ in range(steps):
        used = skipped_to(position, skip)
        weights, position = updated(weights, used), used + 1
        found.append(loss_of(weights))
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--step-ms", type=float, default=5.0)
    parser.add_argument("--do", action="append", default=[])
    parser.add_argument("--data", action="append", default=[])
    parser.add_argument("--fits", type=int, default=10**9)
    arguments = parser.parse_args()
    harm = {int(position): kind for position, _, kind in (item.partition(":") for item in arguments.data)}
    return FakeTrainer(RunPaths(arguments.run), arguments.step_ms / 1000, arguments.do, harm, arguments.fits).train()


if __name__ == "__main__":
    sys.exit(run_main("fake trainer", main))
