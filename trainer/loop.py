"""The training loop: update, validate, log, snapshot; stop and pause at micro-step boundaries.

    for each update:   micro-steps (forward, backward) -> clip -> AdamW -> [validate] -> steps.jsonl -> [snapshot]

The order matters for exactness: a step is logged before a snapshot of it is taken, so no checkpoint is ahead of the log.
"""

import math
import os
import time
from pathlib import Path

import msgspec
import structlog
import torch

from adam.contract import schema
from adam.contract.clock import boottime_ns
from adam.contract.config import Config
from adam.contract.errors import DataError, DiskError, NumericError
from adam.contract.records import Plan, StepRow, encode_line
from adam.contract.shared import Control
from adam.contract.slots import MILESTONE, RAM
from adam.contract.states import Phase
from adam.contract.steplog import RowKey, StepLog
from adam.trainer.data import Batch, Data
from adam.trainer.evaluate import Score, Sureness, Tally, evaluate, key_of, sureness
from adam.trainer.heart import Heart
from adam.trainer.model.lm import MambaLM
from adam.trainer.optim import apply_update, clip_gradients, learning_rate, set_rate
from adam.trainer.order import DataOrder, take
from adam.trainer.owed import Owed
from adam.trainer.pace import Pace
from adam.trainer.replay import Replay, gradient_sums
from adam.trainer.runtime import Runtime, fingerprint
from adam.trainer.snapshot import Position, Snapshots
from adam.trainer.spread import let_go, whole
from adam.trainer.together import Together
from adam.trainer.window import Window

LONGEST_WAIT_FOR_SLOTS_S = 60.0
POLL_S = 0.05
WHYS = ("", MILESTONE, "request", "interval", RAM)  # a snapshot is due
KEEP_S = 1.0  # between two notes of how far a validation has come

log = structlog.get_logger()


class Update(msgspec.Struct, frozen=True):
    """What one optimizer update came to."""

    position: Position
    first_sample: int
    loss: float
    grad_norm: float
    rate: float
    seconds: float
    data_wait: float
    sound: int | None = None  # as in StepRow


class Loop:
    """One attempt of training, on this rank. `validation` is where a Tally is kept."""

    def __init__(
        self,
        *,
        config: Config,
        plan: Plan,
        runtime: Runtime,
        data: Data,
        model: MambaLM,
        optimizer: torch.optim.AdamW,
        snapshots: Snapshots,
        steps: StepLog,
        heart: Heart,
        owed: Owed,
        validation: Path,
        together: Together,
    ) -> None:
        self.config, self.plan, self.runtime = config, plan, runtime
        self.data, self.model, self.optimizer = data, model, optimizer
        self.snapshots, self.steps, self.heart, self.owed = snapshots, steps, heart, owed
        self.order = DataOrder(data.train.count, config.trainer.seed)
        checkpoint = config.checkpoint
        self.pace = Pace(
            checkpoint.every_steps, checkpoint.ram_every_steps, checkpoint.milestone_every, plan.death_interval_s
        )
        # A backend whose gradients differ from time to time says nothing about the chip.
        self.replay = Replay(config.numeric.replay_minutes if model.ops.repeatable else 0.0, plan.sound)
        self.together = together
        self._window = Window(runtime.device)
        self._validation, self._kept_at = validation, 0.0
        self._told = 0  # snapshots that the pulse speaks of
        self._told_waiting = 0  # … and rows that the log does not have
        self._beside = False  # the step under way began beside a snapshot that is being copied

    def run(self, position: Position) -> bool:
        """Train from `position` to `trainer.steps`. True when all steps are done, False when somebody asked to stop.

        The last snapshot is written in both cases. Raises NumericError at a loss or gradient that is not finite.
        """
        total = self.config.trainer.steps
        self._write_owed()
        self.heart.enter(Phase.TRAINING)
        self.heart.beat(step=position.step, micro_step=0, done=position.step, total=total, sound=self.replay.sound)
        while position.step < total:
            update = self._update(position)
            if update is None:
                self._save_last(position, "stop")
                return False
            position = update.position
            self._finish_step(update, total)
        self._save_last(position, "final")
        return True

    def _update(self, position: Position) -> Update | None:
        """One optimizer update; None where it was given up because of a request to stop (nothing has changed then)."""
        trainer = self.config.trainer
        started, paused_before = time.perf_counter(), self.heart.paused_s
        positions, behind = take(position.samples, trainer.batch_size, self.plan.skip)
        losses, data_wait = [], 0.0
        at_once = self.together.world * self.runtime.micro_batch
        for micro, begin in enumerate(range(0, trainer.batch_size, at_once)):
            if self._should_stop(position):
                self.optimizer.zero_grad(set_to_none=True)
                return None
            fetched = time.perf_counter()
            chosen = positions[self.together.share(begin, self.runtime.micro_batch)]
            batch = self.data.train.batch([self.order.sample_at(p) for p in chosen])
            data_wait += time.perf_counter() - fetched
            twice = micro == 0 and self.together.told(self.replay.due)
            losses.append(self._twice(batch, position, behind) if twice else self._backward(batch))
            self.heart.beat(micro_step=micro + 1)
            self._finish_save()
        rate = learning_rate(position.step, trainer) * self.plan.lr_factor
        loss, grad_norm = self._apply(losses, rate)
        done = Position(
            step=position.step + 1, samples=behind, tokens=position.tokens + trainer.batch_size * trainer.seq_len
        )
        seconds = time.perf_counter() - started - (self.heart.paused_s - paused_before)
        update = Update(done, position.samples, loss, grad_norm, rate, seconds, data_wait)
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            self._log(update, None)
            self.together.each(None)  # or the first rank might be ended before it has logged why
            raise NumericError(f"step {done.step}: loss {loss}, gradient norm {grad_norm}")
        return update

    def _should_stop(self, position: Position) -> bool:
        # A pause stands between two micro-steps: what a save writes then is the last whole step, as at a stop.
        self.together.look()
        self.heart.wait_while_paused(lambda: self._during_pause(position))
        return self.together.stopping()

    def forward(self, batch: Batch) -> torch.Tensor:
        """Losses of a batch's targets in nats, (B, L) fp32."""
        tokens, targets, resets = (part.to(self.runtime.device, non_blocking=True) for part in batch)
        with self.runtime.autocast():
            return self.model.loss(tokens, targets, resets)

    def _backward(self, batch: Batch) -> torch.Tensor:
        """The micro-batch's share of the update's loss (mean over all targets of the update), its gradient added up."""
        share = self.forward(batch).sum() / (self.config.trainer.batch_size * self.config.trainer.seq_len)
        share.backward()
        return share.detach()

    def _twice(self, batch: Batch, position: Position, behind: int) -> torch.Tensor:
        """The update's first micro-batch, computed twice: the same bits, or the chip computes wrong. Raises NumericError."""
        first = gradient_sums(self._backward(batch), self.model.parameters())
        self.optimizer.zero_grad(set_to_none=True)
        share = self._backward(batch)
        if not self.together.all(gradient_sums(share, self.model.parameters()) == first):
            done = msgspec.structs.replace(position, step=position.step + 1, samples=behind)
            self._log(Update(done, position.samples, math.nan, math.nan, 0.0, 0.0, 0.0, self.replay.sound), None)
            self.together.each(None)
            raise NumericError(f"step {done.step}: a micro-batch that was computed twice came out differently")
        self.replay.agreed(position.step)
        self.heart.beat(sound=position.step)
        log.info("computed twice, the same", step=position.step)
        return share

    def _apply(self, losses: list[torch.Tensor], rate: float) -> tuple[float, float]:
        """(loss, norm of the gradient before clipping); the update is left out where either is not finite."""
        norm = whole(clip_gradients(self.model, self.optimizer, self.config.trainer.clip))
        total = self.together.total(torch.stack(losses).double().sum())
        loss, grad_norm = self._window.read(torch.stack([total, norm.double()]))
        if math.isfinite(grad_norm) and math.isfinite(loss):
            self.snapshots.before_update()
            set_rate(self.optimizer, rate)
            apply_update(self.optimizer)
        self.optimizer.zero_grad(set_to_none=True)
        return loss, grad_norm

    def _finish_step(self, update: Update, total: int) -> None:
        step = update.position.step
        validated = self._evaluate(step) if self._evaluation_due(step, total) else None
        if step % self.config.trainer.log_every == 0 or validated is not None or step == total:
            self._log(update, validated)
        self.heart.beat(step=step, micro_step=0, done=step)
        self.pace.stepped(update.seconds, beside=self._beside)
        if step < total:
            self._save_if_due(update.position)
        self._beside = self.snapshots.under_way

    def _save_if_due(self, position: Position) -> None:
        self._write_owed()
        self._finish_save()
        control = self.heart.control()
        if why := self._due(position, control, in_ram=self.snapshots.in_ram):
            self._save(position, why, control)

    def _due(self, position: Position, control: Control, *, in_ram: bool) -> str:
        """Why a snapshot is to be taken now, as rank 0 sees it; empty: it is not."""
        return WHYS[self.together.told(WHYS.index(self.pace.due(position.step, control, in_ram=in_ram)))]

    def _during_pause(self, position: Position) -> None:
        """Save where somebody asks for it: no step is done, so nothing is due by itself."""
        self._write_owed()
        self._finish_save()
        control = self.heart.control()
        if self.pace.asked(control) and (why := self._due(position, control, in_ram=False)):
            self._save(position, why, control)
        self.together.look()

    def _evaluation_due(self, step: int, total: int) -> bool:
        every = self.config.trainer.eval_every
        return step == total or (every > 0 and step % every == 0)

    def _evaluate(self, step: int) -> tuple[Score, Sureness]:
        with self.heart.during(Phase.EVALUATING):
            score = evaluate(
                self.model,
                self.data,
                tokens=self.config.trainer.eval_tokens,
                micro_batch=self.runtime.micro_batch,
                forward=self.forward,
                tally=self._begun_validation(step),
                keep=self._keep_validation,
                together=self.together,
            )
            sure = self._sureness()
            let_go(self.model)
        log.info("validated", val_loss=round(score.loss, 4), bits_per_byte=round(score.bits_per_byte, 4))
        return score, sure

    def _begun_validation(self, step: int) -> Tally:
        """What a process that has died meanwhile did of this very validation."""
        own = key_of(
            self.model.parameters(),
            step,
            fingerprint(self.runtime.parts()),
            self.data.manifest.splits["val"].tokens.sha256,
            self.config.trainer.eval_tokens,
            self.runtime.micro_batch,
        )
        key = " ".join(self.together.each(own))  # each rank has other weights
        try:
            begun = schema.load(self._validation, Tally) if self.together.first else None
        except (DataError, OSError):
            begun = None  # torn by a power cut, or can't be read: it only saves time
        begun = self.together.each(begun)[0]
        return begun if begun is not None and begun.key == key else Tally(key=key)

    def _keep_validation(self, tally: Tally) -> None:
        self.heart.beat()
        if time.monotonic() - self._kept_at > KEEP_S:
            self._kept_at = time.monotonic()
            self.owed.save(self._validation, tally, durable=False)

    @torch.no_grad()
    def _sureness(self) -> Sureness:
        """Over the first validation window: one forward more."""
        tokens, _, resets = (part.to(self.runtime.device) for part in self.data.val.batch([0]))
        with self.runtime.autocast():
            return sureness(self.model(tokens, resets))

    def _log(self, update: Update, validated: tuple[Score, Sureness] | None) -> None:
        score, sure = validated or (None, None)
        self.steps.append(
            encode_line(
                StepRow(
                    attempt=self.plan.attempt,
                    step=update.position.step,
                    tokens=update.position.tokens,
                    first_sample=update.first_sample,
                    end_sample=update.position.samples,
                    loss=_finite(update.loss),
                    grad_norm=_finite(update.grad_norm),
                    lr=update.rate,
                    step_s=update.seconds,
                    data_wait_s=update.data_wait,
                    val_loss=score and _finite(score.loss),
                    val_bits_per_byte=score and _finite(score.bits_per_byte),
                    val_s=score and score.seconds,
                    entropy=sure and _finite(sure.entropy),
                    logits_norm=sure and _finite(sure.logits_norm),
                    sound=update.sound,
                    wall=time.time(),
                    boottime=boottime_ns() / 1e9,
                )
            )
        )
        self._write_owed()
        # What waits is bounded, and none of it is dropped: training stands still, which is no hang.
        while self.steps.full and not self.together.asked_to_stop():
            with self.heart.during(Phase.PAUSED):
                time.sleep(POLL_S)
                self._write_owed()

    def _write_owed(self) -> None:
        """Try again what the disk has not taken, and say so."""
        self.owed.write()
        self.steps.write()
        if self.steps.waiting != self._told_waiting:
            self._told_waiting = self.steps.waiting
            self.heart.beat(unlogged=self.steps.waiting, log_error=self.steps.error)

    def _logged(self) -> RowKey | None:
        """The newest row, where the rows of all steps done live as long as a snapshot of them would: no snapshot is ahead of the log."""
        lives = not self.steps.waiting or (self.snapshots.in_ram and self.steps.copied)
        return self.steps.newest if lives else None

    def _save(self, position: Position, why: str, control: Control) -> None:
        with self.heart.during(Phase.SAVING):
            if why != RAM:
                # A milestone is of its very step: a copy that is still under way (0.6 s at most) is waited for.
                self.snapshots.finish()
            if self.snapshots.take(position, why=why, control=control, logged=self._logged()):
                self.pace.begun(position.step, control, self.snapshots.stall_s)
            else:
                self.pace.postponed()
        self._finish_save()

    def _finish_save(self) -> None:
        """Say so where a snapshot has become complete meanwhile."""
        snapshots = self.snapshots
        if snapshots.poll() and snapshots.taken != self._told:
            self._told = snapshots.taken
            self.heart.beat(
                snapshots=snapshots.taken,
                durable=snapshots.durable,
                snapshot_step=snapshots.newest_step,
                saves=snapshots.saves,
            )

    def _save_last(self, position: Position, why: str) -> None:
        """The snapshot of an attempt's end; waits for the keeper, which may still copy the one before.

        Raises DiskError where there is no room for it.
        """
        self.heart.enter(Phase.ENDING)
        # A save, with its deadline: the keeper may still copy 33 GB, and the disk may be slow.
        with self.heart.during(Phase.SAVING):
            control, began = self.heart.control(), time.monotonic()
            while not self.snapshots.take(position, why=why, control=control, logged=self._logged()):
                # A finished run waits for room as long as people want it: all that was trained since is at stake.
                patient = why == "final" and not self.together.asked_to_stop()
                over = not patient and time.monotonic() - began > LONGEST_WAIT_FOR_SLOTS_S
                if trouble := self.together.each(self._trouble() if over else "")[0]:
                    raise DiskError(trouble, "free some space; training goes on from the last checkpoint")
                self.heart.beat()
                time.sleep(POLL_S)
                self._write_owed()
            self.snapshots.finish()
            self._finish_save()
        log.info("ending", step=position.step, why=why)

    def _trouble(self) -> str:
        """What keeps snapshots from being taken; empty: nothing does for long."""
        if self._logged() is not None:
            return self.snapshots.trouble
        return f"{self.steps.waiting} rows of {self.steps.path} can't be written: {os.strerror(self.steps.error)}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
