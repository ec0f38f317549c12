"""Rows of `metrics.csv`, made by a test."""

import math

from adam.contract import metrics
from adam.contract.paths import RunPaths
from adam.contract.records import StepRow

WORK = metrics.Work(tokens=64, seq_len=16)
TELEMETRY = {"phase": "training", "gpu_temp_c": "61", "cpu_percent": "50.0", "disk_free_gb": "12.50"}


def line(attempt: int, step: int, **fields: float) -> bytes:
    row = StepRow(
        **{
            "attempt": attempt, "step": step, "tokens": step * 64, "first_sample": step, "end_sample": step + 1, "loss": 5.0 - step / 100,
            "grad_norm": 1.0, "lr": 1e-3, "step_s": 0.5, "data_wait_s": 0.0, "wall": 1.8e9 + step + attempt / 8, "boottime": 0.0, **fields,
        }
    )  # fmt: skip
    return metrics.row(row, WORK, TELEMETRY) + b"\n"


def write_rows(paths: RunPaths, *keys: tuple[int, int], **fields: float) -> None:
    """Append a row for each (attempt, step)."""
    new = not paths.metrics.exists()
    with paths.metrics.open("ab") as file:
        file.write((metrics.header() + b"\n") * new + b"".join(line(*key, **fields) for key in keys))


def same(one: float, other: float) -> bool:
    """Equal as far as a float of 32 bits tells."""
    return math.isclose(one, other, rel_tol=1e-6)
