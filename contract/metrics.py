"""The columns of `metrics.csv`: training and telemetry in one row. One schema, versioned by its header line."""

import csv
import io

from adam.contract.clock import iso
from adam.contract.records import Gpu, StepRow

COLUMNS = (
    "timestamp",
    "attempt",
    "step",
    "tokens",
    "loss",
    "val_loss",
    "val_bits_per_byte",
    "grad_norm",
    "learning_rate",
    "tokens_per_sec",
    "step_s",
    "data_wait_s",
    "first_sample",
    "end_sample",
    "phase",
    "gpu_temp_c",
    "gpu_margin_c",
    "gpu_memory_temp_c",
    "gpu_power_w",
    "gpu_clocks",
    "gpu_util",
    "vram_gb",
    "cpu_percent",
    "ram_gb",
    "disk_free_gb",
)


def header() -> bytes:
    return ",".join(COLUMNS).encode()


def row(step: StepRow, tokens_per_step: int, telemetry: dict[str, str]) -> bytes:
    """A line of `metrics.csv`. `telemetry` has the cells from `phase` on; cells without a value stay empty."""
    cells = {
        "timestamp": iso(step.wall),
        "attempt": str(step.attempt),
        "step": str(step.step),
        "tokens": str(step.tokens),
        "loss": number(step.loss),
        "val_loss": number(step.val_loss) if step.val_loss is not None else "",
        "val_bits_per_byte": number(step.val_bits_per_byte) if step.val_bits_per_byte is not None else "",
        "grad_norm": number(step.grad_norm),
        "learning_rate": number(step.lr),
        "tokens_per_sec": f"{tokens_per_step / step.step_s:.1f}" if step.step_s > 0 else "",
        "step_s": f"{step.step_s:.6f}",
        "data_wait_s": f"{step.data_wait_s:.6f}",
        "first_sample": str(step.first_sample),
        "end_sample": str(step.end_sample),
        **telemetry,
    }
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow([cells.get(column, "") for column in COLUMNS])
    return out.getvalue().encode()


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
    memory = [gpu.memory_used_bytes for gpu in gpus if gpu.memory_used_bytes is not None]
    return {
        "gpu_temp_c": str(max(temperatures)) if temperatures else "",
        "gpu_margin_c": str(min(margins)) if margins else "",
        "gpu_memory_temp_c": str(max(memories)) if memories else "",
        "gpu_clocks": " ".join(sorted(clocks)),
        "gpu_power_w": f"{sum(powers):.1f}" if powers else "",
        "gpu_util": f"{sum(uses) / len(uses):.0f}" if uses else "",
        "vram_gb": f"{sum(memory) / 1e9:.2f}" if memory else "",
    }
