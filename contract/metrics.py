"""The columns of `metrics.csv`: training and telemetry in one row. One schema, versioned by its header line."""

import csv
import io

import msgspec

from adam.contract.clock import iso
from adam.contract.mfu import utilisation
from adam.contract.records import Gpu, Numerics, StepRow

COLUMNS = (
    "timestamp",
    "attempt",
    "step",
    "tokens",
    "seq_len",
    "loss",
    "val_loss",
    "val_bits_per_byte",
    "entropy",
    "logits_norm",
    "grad_norm",
    "learning_rate",
    "tokens_per_sec",
    "mfu",
    "step_s",
    "data_wait_s",
    "first_sample",
    "end_sample",
    "phase",
    "gpu_temp_c",
    "gpu_margin_c",
    "gpu_memory_temp_c",
    "gpu_power_w",
    "gpu_power_limit_w",
    "gpu_clocks",
    "gpu_util",
    "vram_gb",
    "cpu_percent",
    "ram_gb",
    "disk_free_gb",
)


class Work(msgspec.Struct, frozen=True):
    """What one update of the run is. `flops`: of the model's products, forward and backward; 0: not known."""

    tokens: int
    seq_len: int
    flops: float = 0.0


def header(columns: tuple[str, ...] = COLUMNS) -> bytes:
    return ",".join(columns).encode()


def columns_of(header_line: bytes) -> tuple[str, ...]:
    """The columns that a header line names; errors in it give names that are nobody's."""
    return tuple(header_line.decode(errors="replace").rstrip("\r\n").split(","))


def cells_of(line: bytes) -> list[str]:
    """The cells of a row. No cell of ours has a comma or a quote in it."""
    return line.decode(errors="replace").rstrip("\r\n").split(",")


def row(
    step: StepRow,
    work: Work,
    telemetry: dict[str, str],
    numerics: Numerics | None = None,
    columns: tuple[str, ...] = COLUMNS,
) -> bytes:
    """A line of `metrics.csv`; cells without a value stay empty.

    Args:
        telemetry: the cells from `phase` on.
        numerics: of the attempt that the step is of; those of another one are not believed.
        columns: of the file, which may have more than ours.
    """
    mfu = utilisation(work.flops, step.step_s, step.attempt, numerics)
    cells = {
        "timestamp": iso(step.wall),
        "attempt": str(step.attempt),
        "step": str(step.step),
        "tokens": str(step.tokens),
        "seq_len": str(work.seq_len),
        "loss": number(step.loss),
        "val_loss": of_validation(step.val_loss),
        "val_bits_per_byte": of_validation(step.val_bits_per_byte),
        "entropy": of_validation(step.entropy),
        "logits_norm": of_validation(step.logits_norm),
        "grad_norm": number(step.grad_norm),
        "learning_rate": number(step.lr),
        "tokens_per_sec": f"{work.tokens / step.step_s:.1f}" if step.step_s > 0 else "",
        "mfu": f"{mfu:.4f}" if mfu is not None else "",
        "step_s": f"{step.step_s:.6f}",
        "data_wait_s": f"{step.data_wait_s:.6f}",
        "first_sample": str(step.first_sample),
        "end_sample": str(step.end_sample),
        **telemetry,
    }
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow([cells.get(column, "") for column in columns])
    return out.getvalue().encode()


def of_validation(value: float | None) -> str:
    """Most steps have no validation."""
    return "" if value is None else number(value)


def number(value: float | None) -> str:
    """A float that reads back exactly; `nan` for one that was not finite."""
    return "nan" if value is None else repr(value)


def gpu_cells(gpus: tuple[Gpu, ...]) -> dict[str, str]:
    """The hottest, the sums: one row stands for the whole box."""
    if not gpus:
        return {}
    temperatures = [gpu.temperature_c for gpu in gpus if gpu.temperature_c is not None]
    margins = [gpu.margin_c for gpu in gpus if gpu.margin_c is not None]
    memories = [gpu.memory_temperature_c for gpu in gpus if gpu.memory_temperature_c is not None]
    clocks = {reason for gpu in gpus for reason in gpu.clocks or ()}
    powers = [gpu.power_w for gpu in gpus if gpu.power_w is not None]
    uses = [gpu.utilisation for gpu in gpus if gpu.utilisation is not None]
    limits = [gpu.power_limit_w for gpu in gpus if gpu.power_limit_w is not None]
    memory = [gpu.memory_used_bytes for gpu in gpus if gpu.memory_used_bytes is not None]
    return {
        "gpu_temp_c": str(max(temperatures)) if temperatures else "",
        "gpu_margin_c": str(min(margins)) if margins else "",
        "gpu_memory_temp_c": str(max(memories)) if memories else "",
        "gpu_clocks": " ".join(sorted(clocks)),
        "gpu_power_w": f"{sum(powers):.1f}" if powers else "",
        "gpu_power_limit_w": f"{sum(limits):.0f}" if limits else "",
        "gpu_util": f"{sum(uses) / len(uses):.0f}" if uses else "",
        "vram_gb": f"{sum(memory) / 1e9:.2f}" if memory else "",
    }
