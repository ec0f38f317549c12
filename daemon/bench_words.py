"""What `adamctl bench` says: of the figures that were measured, to a dictionary for scripts and to lines for people. Pure."""

from typing import Any

from adam.contract.config import Config
from adam.contract.durable import human_bytes
from adam.contract.mfu import FLOPS_PER_PARAMETER, peak_flops
from adam.daemon.report import AGAIN, human_time

SCHEMA = 1  # of `bench --json`
SEED_TOKENS = 5.7e9  # what the project that this one began with trained its 2.7B on
SLOW_STALL = 0.05  # of a second: more shows as slower steps


def facts_of(found: dict[str, Any], config: Config, disk: float | None) -> dict[str, Any]:
    """The report. found: what `adam.trainer.bench` prints. disk: bytes a second, durable; None: not tried."""
    speed, chosen = found["tokens_per_second"], found["fit"]["chosen"]
    peak = peak_flops(found["parts"]["device"])
    run_tokens = config.trainer.steps * config.trainer.batch_size * config.trainer.seq_len
    return {
        "schema": SCHEMA,
        "device": found["parts"]["device"],
        "torch": found["parts"]["torch"],
        "precision": found["parts"]["precision"],
        "backend": found["parts"]["backend"],
        "failed_backends": found["failed_backends"],
        "parameters": found["parameters"],
        "batch_size": found["batch_size"],
        "seq_len": found["seq_len"],
        "micro_batch": chosen["micro_batch"],
        "again": chosen["again"],
        "layers": chosen["layers"] or None,
        "step_s": found["step_s"],
        "tokens_per_second": speed,
        "mfu": FLOPS_PER_PARAMETER * found["parameters"] * speed / peak if peak else None,
        "peak_bytes": found["peak_bytes"],
        "memory_bytes": found["fit"]["room"],
        "state_bytes": found["state_bytes"],
        "snapshot_tier": found["snapshot_tier"],
        "snapshot_stall_s": found["snapshot_stall_s"],
        "snapshot_s": found["snapshot_s"],
        "snapshot_trouble": found["snapshot_trouble"],
        "disk_bytes_per_second": disk,
        "checkpoint_s": found["state_bytes"] / disk if disk else None,
        "seed_tokens": SEED_TOKENS,
        "seed_tokens_s": SEED_TOKENS / speed,
        "run_tokens": run_tokens,
        "run_tokens_s": run_tokens / speed,
        "fit": found["fit"],
    }


def lines(facts: dict[str, Any]) -> list[str]:
    """One fact a line, aligned."""
    of = f" of {facts['layers']} layers" if facts["layers"] else ""
    again = f", {AGAIN[facts['again']]}{of} computed again" if facts["again"] else ""
    mfu = f", MFU {100 * facts['mfu']:.1f} %" if facts["mfu"] else ""
    shown = {
        "machine": f"{facts['device']}, torch {facts['torch']}, {facts['precision']}, scans by {facts['backend']}",
        "failed": "; ".join(facts["failed_backends"]),
        "model": f"{facts['parameters'] / 1e6:,.1f} M parameters; an update is {facts['batch_size']} x {facts['seq_len']} tokens, "
        f"{facts['micro_batch']} samples at once{again}",
        "speed": f"{facts['tokens_per_second']:,.0f} tokens/s, {human_time(facts['step_s'])} an update{mfu}",
        "memory": f"{human_bytes(facts['peak_bytes'])} of {human_bytes(facts['memory_bytes'])}",
        "snapshot": snapshot_line(facts),
        "disk": disk_line(facts),
        "time": f"{human_time(facts['seed_tokens_s'])} for 5.7 B tokens; {human_time(facts['run_tokens_s'])} for the "
        f"{facts['run_tokens']:,} of this configuration",
    }
    return [f"{name:<9}  {text}" for name, text in shown.items() if text]


def snapshot_line(facts: dict[str, Any]) -> str:
    size = human_bytes(facts["state_bytes"])
    if facts["snapshot_stall_s"] is None:
        return f"{size}: none could be taken ({facts['snapshot_trouble'] or 'not within a minute'})"
    where = "in memory" if facts["snapshot_tier"] == "ram" else "on the disk: shared memory has no room"
    slow = ", which steps feel" if facts["snapshot_stall_s"] > SLOW_STALL else ""
    return f"{size} {where}, training waits {1e3 * facts['snapshot_stall_s']:.0f} ms for one{slow}"


def disk_line(facts: dict[str, Any]) -> str:
    if facts["disk_bytes_per_second"] is None:
        return "not tried: less than 2 GB are free"
    speed, seconds = human_bytes(facts["disk_bytes_per_second"]), human_time(facts["checkpoint_s"])
    return f"{speed}/s, a checkpoint takes {seconds}"
