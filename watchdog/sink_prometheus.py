"""Prometheus: what the newest row of `metrics.csv` and `run/status.json` say, at http://127.0.0.1:PORT/metrics, for this machine alone.

A scrape asks for the present, so there is nothing to send twice. What only grows is counted over all rows since the run began, whoever
was listening; steps and tokens go back when a run does, so they are gauges.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from importlib import metadata

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from adam.contract import schema
from adam.contract.config import Config
from adam.contract.errors import AdamError, DataError
from adam.contract.paths import RunPaths
from adam.contract.records import Gpu, Status
from adam.contract.sinks import LOCALHOST
from adam.contract.states import RunState
from adam.watchdog.rows import Key, Row

GB = 1e9
# Column -> (name without adam_, what it is, factor to the base unit).
ROW_GAUGES = {
    "attempt": ("attempt", "The attempt that the newest row is of", 1),
    "step": ("step", "Optimizer updates up to the newest row", 1),
    "tokens": ("tokens", "Tokens trained on up to the newest row", 1),
    "loss": ("loss_nats", "Training loss of the newest row, nats a token", 1),
    "grad_norm": ("gradient_norm", "Norm of the gradient before clipping", 1),
    "learning_rate": ("learning_rate", "Learning rate", 1),
    "tokens_per_sec": ("tokens_per_second", "Speed of the newest row's update", 1),
    "mfu": ("model_flops_utilization_ratio", "Share of the chips' bf16 peak that the model's products take", 1),
    "step_s": ("step_duration_seconds", "Wall-clock time of the newest row's update", 1),
    "data_wait_s": ("data_wait_seconds", "Of it, waiting for data", 1),
    "cpu_percent": ("host_cpu_utilization_ratio", "Use of all cores", 0.01),
    "ram_gb": ("host_memory_used_bytes", "Memory in use on the host", GB),
    "disk_free_gb": ("disk_free_bytes", "Free on the run's disk", GB),
}
VALIDATION_GAUGES = {
    "val_loss": ("validation_loss_nats", "Loss of the newest validation, nats a token", 1),
    "val_bits_per_byte": ("validation_compression_ratio", "Bytes that it would take to encode a byte of text", 1 / 8),
    "entropy": ("validation_entropy_nats", "How unsure the model was in it, nats a token", 1),
    "logits_norm": ("validation_logits_norm", "Mean Euclidean norm of its logits", 1),
}
GPU_GAUGES = {
    "temperature_c": ("gpu_temperature_celsius", "Temperature of a GPU", 1),
    "margin_c": ("gpu_temperature_margin_celsius", "Degrees left to the chip's own limit", 1),
    "memory_temperature_c": ("gpu_memory_temperature_celsius", "Temperature of a GPU's memory", 1),
    "power_w": ("gpu_power_watts", "Power that a GPU draws", 1),
    "power_limit_w": ("gpu_power_limit_watts", "Power at which a GPU throttles itself", 1),
    "utilisation": ("gpu_utilization_ratio", "Share of time in which a GPU was busy", 0.01),
    "memory_used_bytes": ("gpu_memory_used_bytes", "Memory of a GPU in use", 1),
    "memory_total_bytes": ("gpu_memory_total_bytes", "Memory of a GPU", 1),
}


class Exhibit(Collector):
    """What is shown at a scrape; asked by the server's threads."""

    def __init__(self, paths: RunPaths) -> None:
        self._paths = paths
        self.rows = 0
        self.newest: Row | None = None
        self.validated: Row | None = None

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("adam_build", "The Adam that shows this", {"version": metadata.version("adam-trainer")})
        yield CounterMetricFamily(
            "adam_rows", "Rows of metrics.csv; a step that was trained again is another one", self.rows
        )
        if self.newest is not None:
            yield gauge("row_timestamp_seconds", "When the newest row was logged, Unix time", self.newest.wall)
            yield from gauges(ROW_GAUGES, self.newest)
        if self.validated is not None:
            yield gauge("validation_step", "Step of the newest validation", self.validated.step)
            yield from gauges(VALIDATION_GAUGES, self.validated)
        yield from self._of_status()

    def _of_status(self) -> Iterator[Metric]:
        try:
            status = schema.load(self._paths.status, Status)
        except (DataError, OSError):
            return  # torn by a power cut: the watchdog writes another
        if status is None:
            return
        yield gauge("status_timestamp_seconds", "When the watchdog spoke last, Unix time", status.stamp.wall)
        yield CounterMetricFamily("adam_restarts", "Starts of training after one that ended badly", status.restarts)
        yield gauge("notes", "What is wrong while the run goes on: lines of adamctl status", len(status.notes))
        yield states(status.state)
        if (checkpoint := status.checkpoint) is not None:
            yield gauge("checkpoint_step", "Step of the newest checkpoint on disk", checkpoint.step)
            yield gauge("checkpoint_timestamp_seconds", "When it was made, Unix time", checkpoint.stamp.wall)
        yield gauge("gpu_sensors_up", "1 where the GPUs' sensors answer", float(status.sensors == "ok"))
        yield from of_gpus(status.gpus)


def gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"adam_{name}", text, value)


def gauges(kinds: dict[str, tuple[str, str, float]], row: Row) -> Iterator[Metric]:
    for column, (name, text, factor) in kinds.items():
        if (value := row.number(column)) is not None:
            yield gauge(name, text, value * factor)


def states(now: RunState) -> Metric:
    """One series a state, 1 for the present one."""
    family = GaugeMetricFamily("adam_state", "1 for the state that the run is in", labels=["state"])
    for state in RunState:
        family.add_metric([state.value], float(state == now))
    return family


def of_gpus(gpus: tuple[Gpu, ...]) -> Iterator[Metric]:
    for field, (name, text, factor) in GPU_GAUGES.items():
        family = GaugeMetricFamily(f"adam_{name}", text, labels=["gpu"])
        for gpu in gpus:
            if (value := getattr(gpu, field)) is not None:
                family.add_metric([str(gpu.index)], value * factor)
        if family.samples:
            yield family
    errors = CounterMetricFamily("adam_gpu_memory_errors", "Memory errors that could not be corrected", labels=["gpu"])
    for gpu in gpus:
        if gpu.uncorrected is not None:
            errors.add_metric([str(gpu.index)], gpu.uncorrected)
    if errors.samples:
        yield errors


class Prometheus:
    """The sink."""

    def __init__(self, paths: RunPaths, port: int) -> None:
        self._port, self._exhibit = port, Exhibit(paths)
        self._registry = CollectorRegistry()
        self._registry.register(self._exhibit)
        self._open = False

    def begin(self) -> Key:
        if not self._open:
            self._listen()
            self._open = True
        newest = self._exhibit.newest
        return newest.key if newest is not None else (0, 0)

    def _listen(self) -> None:
        try:
            start_http_server(self._port, LOCALHOST, self._registry)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            why = os.strerror(error.errno).lower()
            raise AdamError(
                f"port {self._port} of {LOCALHOST} can't be opened: {why}",
                "end who holds it, or choose another sinks.prometheus_port",
            ) from None

    def take(self, rows: Sequence[Row]) -> None:
        exhibit = self._exhibit
        exhibit.rows += len(rows)
        exhibit.newest = rows[-1]
        exhibit.validated = next((row for row in reversed(rows) if "val_loss" in row.cells), exhibit.validated)


def make(paths: RunPaths, config: Config) -> Prometheus:
    return Prometheus(paths, config.sinks.prometheus_port)
