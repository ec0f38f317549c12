"""The report of `adamctl status`: made of plain facts, for scripts (a dictionary) and for people (lines)."""

from pathlib import Path
from typing import Any

import msgspec

from adam.contract.clock import Stamp, iso
from adam.contract.config import Config
from adam.contract.durable import human_bytes
from adam.contract.paths import RunPaths
from adam.contract.records import CheckpointSeen, Fit, Gpu, Lease, Plan, Staging, Status
from adam.contract.shared import Pulse
from adam.contract.sinks import wheres
from adam.contract.states import Phase, RunState
from adam.daemon.numbers import Numbers

SCHEMA = 1  # of `status --json`; docs/operations.md lists the fields
AGAIN = {"inputs": "inputs of scans", "states": "states of scans", "blocks": "all of a block but its input"}
SILENT_S = 10.0  # a watchdog writes every 2 s


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What the files and the process table say at `now`."""

    root: str
    checkpoints: str
    now: Stamp
    config: Config
    status: Status | None = None
    lease: Lease | None = None
    plan: Plan | None = None
    pulse: Pulse | None = None  # of the forge where `forging`, else of the trainer
    forging: bool = False
    numbers: Numbers = Numbers()
    position: int | None = None  # of an attempt that has no row yet
    order2_bits_per_byte: float | None = None
    checkpoint: CheckpointSeen | None = None
    staging: Staging | None = None
    fit: Fit | None = None
    watchdog_alive: bool = False
    program_alive: bool = False
    anybody_alive: bool = False


def describe(seen: Seen) -> dict[str, Any]:
    """The report: the dictionary that `status --json` prints."""
    state, reason = state_of(seen)
    status, numbers, step = seen.status, seen.numbers, step_of(seen)
    trainer = seen.config.trainer
    tokens_per_step = trainer.batch_size * trainer.seq_len
    training = state == RunState.TRAINING
    speed = numbers.tokens_per_second if training else None
    return {
        "schema": SCHEMA,
        "run": seen.root,
        "name": seen.config.name or seen.root.rpartition("/")[2],
        "state": state.value,
        "reason": reason,
        "step": step,
        "steps": trainer.steps,
        "tokens": numbers.tokens if numbers.step == step else step * tokens_per_step,
        "loss": numbers.loss,
        "val_loss": numbers.val_loss,
        "val_bits_per_byte": numbers.val_bits_per_byte,
        "order2_bits_per_byte": seen.order2_bits_per_byte,
        "tokens_per_second": speed,
        "eta_s": max(0, trainer.steps - step) * tokens_per_step / speed if speed else None,
        "attempt": status.attempt if status else 0,
        "restarts": status.restarts if status else 0,
        "progress": progress_of(seen),
        "trainer": trainer_of(seen),
        "watchdog": {"pid": status.watchdog_pid if status and seen.watchdog_alive else None},
        "fit": fit_of(seen),
        "checkpoint": checkpoint_of(seen),
        "snapshot": snapshot_of(seen),
        "upload": msgspec.to_builtins(status.upload) if status and status.upload else None,
        "sinks": wheres(RunPaths(Path(seen.root)), seen.config),
        "gpus": msgspec.to_builtins(status.gpus) if status and seen.watchdog_alive else [],
        "changes": changes_of(seen.plan),
        "breaks": list(status.breaks) if status else [],
        "notes": notes_of(seen, state),
    }


def state_of(seen: Seen) -> tuple[RunState, str]:
    """The last known state, corrected where nobody is left who could be in it."""
    status = seen.status
    if status is None:
        if seen.anybody_alive:
            return RunState.STARTING, "the watchdog has not spoken yet"
        return RunState.STOPPED, "never started; `adamctl up` starts it"
    if status.state.final or seen.anybody_alive:
        return status.state, status.reason
    start = f"step {seen.checkpoint.step}" if seen.checkpoint else "the beginning"
    return (
        RunState.STOPPED,
        f"no process of this run is alive (killed, or the machine restarted); `adamctl up` goes on from {start}",
    )


def step_of(seen: Seen) -> int:
    """The step that the run stands at: the newest row's, or the pulse's where rows are written less often."""
    if seen.position is not None:
        return seen.position
    pulse = None if seen.forging else seen.pulse
    return max(seen.numbers.step, pulse.step if pulse and pulse.attempt == seen.numbers.attempt else 0)


def progress_of(seen: Seen) -> dict[str, Any] | None:
    """What the living program says it is doing: its phase, and how much of it is done."""
    pulse = present_pulse(seen)
    if pulse is None:
        return None
    return {"phase": Phase(pulse.phase).name.lower(), "done": pulse.done, "total": pulse.total}


def present_pulse(seen: Seen) -> Pulse | None:
    """The pulse, where it is of the program that runs now."""
    if seen.pulse is None or seen.lease is None or not seen.program_alive or seen.pulse.token != seen.lease.token:
        return None
    return seen.pulse


def trainer_of(seen: Seen) -> dict[str, Any]:
    lease, pulse = seen.lease, present_pulse(seen)
    if lease is None or lease.program != "trainer" or not seen.program_alive:
        return {"pid": None, "pulse_age_s": None}
    age = max(0.0, seen.now.boottime - pulse.progress_ns / 1e9) if pulse else None
    return {"pid": lease.child_pid, "pulse_age_s": age}


def checkpoint_of(seen: Seen) -> dict[str, Any]:
    """`verified`: a keeper has checked every byte of it; false: nobody has, yet."""
    known = seen.checkpoint
    if known is None:
        return {"step": None, "age_s": None, "verified": None, "path": None}
    age = known.stamp.age_s(seen.now)
    return {"step": known.step, "age_s": age, "verified": known.verified, "path": f"{seen.checkpoints}/{known.name}"}


def fit_of(seen: Seen) -> dict[str, Any] | None:
    """How an update is computed where that was measured; `again`: what the backward computes again. None where it was not."""
    if seen.fit is None or seen.config.trainer.fit != "auto":
        return None
    chosen = seen.fit.chosen
    return {
        "micro_batch": chosen.micro_batch,
        "again": chosen.again,
        "layers": chosen.layers or None,
        "peak_bytes": chosen.peak,
        "room_bytes": seen.fit.room,
        "measured_by_attempt": seen.fit.attempt,
    }


def snapshot_of(seen: Seen) -> dict[str, Any]:
    """The newest snapshot of the living trainer: in `ram` (a killed trainer goes on from there) or staged on `disk`."""
    pulse, staging = present_pulse(seen), seen.staging
    if pulse is None or not pulse.snapshots or staging is None or staging.attempt != pulse.attempt:
        return {"step": None, "tier": None}
    return {"step": pulse.snapshot_step, "tier": staging.tier}


def changes_of(plan: Plan | None) -> dict[str, Any]:
    """What the watchdog does otherwise than configured, after numeric trouble or out of memory; `skip`: half-open ranges of samples."""
    if plan is None:
        return {"skip": [], "micro_batch": None, "lr_factor": 1.0}
    skip = [list(span) for span in plan.skip]
    return {"skip": skip, "micro_batch": plan.micro_batch or None, "lr_factor": plan.lr_factor}


def notes_of(seen: Seen, state: RunState) -> list[str]:
    """What is wrong while the run goes on."""
    uploading = state.final and seen.watchdog_alive  # a finished run waits for its last upload
    notes = list(seen.status.notes) if seen.status and (not state.final or uploading) else []
    if seen.status is None or state.final:
        return notes
    silent = seen.status.stamp.age_s(seen.now)
    if not seen.watchdog_alive:
        notes.append("the watchdog is not running; its supervisor starts another")
    elif silent > SILENT_S:
        notes.append(f"the watchdog has written nothing for {silent:.0f} s: this is what it knew then")
    return notes


def human_lines(report: dict[str, Any]) -> list[str]:
    """The report for people: one fact a line, aligned."""
    lines = {
        "run": report["run"],
        "state": headline(report),
        "progress": human_progress(report["progress"]),
        "step": f"{report['step']:,} of {report['steps']:,}, {report['tokens']:,} tokens",
        "loss": human_loss(report),
        "speed": human_speed(report),
        "fit": human_fit(report["fit"]),
        "trainer": human_trainer(report),
        "watchdog": f"process {report['watchdog']['pid']}" if report["watchdog"]["pid"] else "",
        "checkpoint": human_checkpoint(report["checkpoint"]),
        "upload": human_upload(report["upload"]),
        "metrics": "; ".join(f"{name}: {where}" for name, where in report["sinks"].items()),
        "changed": human_changes(report["changes"]),
        "snapshot": f"step {report['snapshot']['step']:,}, in memory" if report["snapshot"]["tier"] == "ram" else "",
    }
    shown = [(name, text) for name, text in lines.items() if text]
    shown += [("gpu", human_gpu(msgspec.convert(gpu, Gpu))) for gpu in report["gpus"]]
    shown += [("break", text) for text in report["breaks"]] + [("note", text) for text in report["notes"]]
    return [f"{name:<10}  {text}" for name, text in shown]


def headline(report: dict[str, Any]) -> str:
    """State and reason; training needs none."""
    return f"{report['state']}: {report['reason']}" if report["reason"] else str(report["state"])


def human_progress(progress: dict[str, Any] | None) -> str:
    if progress is None:
        return ""
    share = f", {100 * progress['done'] / progress['total']:.0f} %" if progress["total"] else ""
    return f"{progress['phase']}{share}"


def human_loss(report: dict[str, Any]) -> str:
    """Training loss, and validation beside what counting bytes alone would give."""
    parts = [f"{report['loss']:.4f}"] if report["loss"] is not None else []
    if report["val_loss"] is not None:
        parts.append(f"validation {report['val_loss']:.4f}")
    if report["val_bits_per_byte"] is not None:
        parts.append(f"{report['val_bits_per_byte']:.3f} bits per byte")
    if parts and report["order2_bits_per_byte"] is not None:
        parts.append(f"(an order-2 byte model: {report['order2_bits_per_byte']:.3f})")
    return ", ".join(parts).replace(", (", " (")


def human_speed(report: dict[str, Any]) -> str:
    if report["tokens_per_second"] is None:
        return ""
    return f"{report['tokens_per_second']:,.0f} tokens/s, about {human_time(report['eta_s'])} left"


def human_fit(fit: dict[str, Any] | None) -> str:
    if fit is None:
        return ""
    of = f" of {fit['layers']} layers" if fit["layers"] else ""
    again = f", {AGAIN[fit['again']]}{of} computed again" if fit["again"] else ""
    peak, room = human_bytes(fit["peak_bytes"]), human_bytes(fit["room_bytes"])
    return f"{fit['micro_batch']} samples at once{again}: {peak} of {room}"


def human_trainer(report: dict[str, Any]) -> str:
    trainer, age = report["trainer"], report["trainer"]["pulse_age_s"]
    counts = f"attempt {report['attempt']}, {report['restarts']} restarts"
    if trainer["pid"] is None:
        return counts if report["attempt"] else ""
    last = f", last progress {human_time(age)} ago" if age is not None else ""
    return f"process {trainer['pid']}{last}; {counts}"


def human_checkpoint(checkpoint: dict[str, Any]) -> str:
    if checkpoint["path"] is None:
        return "none yet"
    verified = "verified" if checkpoint["verified"] else "not verified yet"
    return f"step {checkpoint['step']:,}, {human_time(checkpoint['age_s'])} old, {verified}: {checkpoint['path']}"


def human_upload(upload: dict[str, Any] | None) -> str:
    if upload is None:
        return ""
    parts = [f"weights of {upload['weights']}"] if upload["weights"] else []
    parts += [f"all of {upload['state']}"] if upload["state"] else []
    times = [iso(upload[key]["wall"]) for key in ("weights_at", "state_at") if upload[key]]
    return f"{' and '.join(parts)} at {upload['where']}, {max(times)}" if parts else f"nothing yet at {upload['where']}"


def human_changes(changes: dict[str, Any]) -> str:
    spans = ", ".join(f"{start:,} to {end - 1:,}" for start, end in changes["skip"])
    parts = [f"samples {spans} are left out"] if spans else []
    parts += [f"{changes['micro_batch']} samples at once"] if changes["micro_batch"] else []
    parts += [f"learning rate x {changes['lr_factor']:g}"] if changes["lr_factor"] != 1.0 else []
    return "; ".join(parts)


def human_gpu(gpu: Gpu) -> str:
    facts = [f"{gpu.index}: {gpu.name}"]
    facts += [f"{gpu.temperature_c} °C"] if gpu.temperature_c is not None else []
    facts += [f"{gpu.margin_c} °C below its limit"] if gpu.margin_c is not None else []
    limit = f" of {gpu.power_limit_w:.0f} W" if gpu.power_limit_w is not None else " W"
    facts += [f"{gpu.power_w:.0f}{limit}"] if gpu.power_w is not None else []
    facts += [f"{gpu.utilisation} %"] if gpu.utilisation is not None else []
    if gpu.memory_used_bytes is not None and gpu.memory_total_bytes is not None:
        facts.append(f"{human_bytes(gpu.memory_used_bytes)} of {human_bytes(gpu.memory_total_bytes)}")
    return ", ".join(facts)


def human_time(seconds: float) -> str:
    """`3.2 s`, `12 min`, `5 h 20 min`, `3 d 4 h`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"
