"""`trainer.fit = "auto"`: at a run's first start, how to compute an update is measured, and written down so that it stays.

Of each candidate (samples at once, what the backward computes again) a few forwards and backwards are done with random tokens; times and
peaks are what they took. No weight, no generator and no gradient is changed by it. A restart takes what stands in `run/fit.json` without
measuring, for as long as GPU, driver, torch and configuration are the same: the losses stay bit for bit the same.
"""

import gc
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import structlog
import torch

from adam.contract import schema
from adam.contract.config import Config
from adam.contract.durable import human_bytes
from adam.contract.errors import ConfigError, DataError
from adam.contract.ram import cgroup_left
from adam.contract.records import Fit, Fitted
from adam.trainer.copying import MARGIN_BYTES
from adam.trainer.fit_choice import MARGIN, SMALL_BUFFERS, pick, search, sizes
from adam.trainer.memory import STATES, gpu_room, layers_again, needed_bytes, set_way, ways
from adam.trainer.model.lm import MambaLM
from adam.trainer.runtime import Runtime

BUDGET_S = 90.0  # for all that is measured; watchdog.start_seconds is 300 by default
TIMED = 2
SLACK = 0.01  # of the room: what an estimate may be wrong by
WEIGHT_BYTES, MOMENT_BYTES = 4, 8  # of a parameter
DOCUMENT = 1000  # tokens, in the mean
OTHERS = 0.05  # of a GPU's memory: more than a context takes
DRIVER = Path("/proc/driver/nvidia/version")

log = structlog.get_logger()


class Probe:
    """Measures candidates of one model. `beat` is called between them."""

    def __init__(self, model: MambaLM, config: Config, runtime: Runtime, beat: Callable[[], None]) -> None:
        self.model, self.config, self.runtime, self.beat = model, config, runtime, beat
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.room = room_of(runtime.device)
        whole = config.checkpoint.ram == "auto" and runtime.device == "cuda"
        self.copy = self.parameters * (WEIGHT_BYTES + MOMENT_BYTES) + MARGIN_BYTES if whole else 0

    def measure(self, size: int, again: str, layers: int = 0) -> Fitted:
        """One candidate. What surely does not fit is not tried, and has no times."""
        self.beat()
        set_way(self.model, again, layers)
        runtime = msgspec.structs.replace(self.runtime, micro_batch=size)
        try:
            need = needed_bytes(self.model, self.config.trainer.seq_len, runtime)
            if not layers and need > self.room:
                return Fitted(size, again, peak=need)
            return msgspec.structs.replace(self._timed(runtime, again, need), layers=layers)
        except torch.OutOfMemoryError:
            return Fitted(size, again, layers=layers)
        finally:
            self._clear()

    def partly(self, all_again: Fitted) -> Iterator[Fitted]:
        """Where there is room for the states of some layers: as many as fit beside a snapshot's copy, and beside small buffers."""
        length = self.config.trainer.seq_len
        runtime = msgspec.structs.replace(self.runtime, micro_batch=all_again.micro_batch)
        for more in (self.copy, min(self.copy, SMALL_BUFFERS)):
            spare = int((1 - MARGIN - SLACK) * self.room) - more - all_again.peak
            layers = layers_again(self.model, length, runtime, spare)
            if 0 < layers < len(self.model.backbone.layers):
                yield self.measure(all_again.micro_batch, STATES, layers)

    def _timed(self, runtime: Runtime, again: str, need: int) -> Fitted:
        self._clear()
        size, seconds = runtime.micro_batch, []
        for number in range(1 + TIMED):
            began = time.perf_counter()
            self._backward(runtime)
            self._synchronize()
            if number:
                seconds.append(time.perf_counter() - began)
            if size == self.config.trainer.batch_size:
                self.model.zero_grad(set_to_none=True)
        if runtime.device == "cuda":
            need = torch.cuda.max_memory_reserved() + MOMENT_BYTES * self.parameters
        found = Fitted(size, again, min(seconds) / size, need)
        log.info(
            "fit",
            micro_batch=size,
            again=again or "nothing",
            ms_a_sample=round(1e3 * found.seconds, 2),
            peak=found.peak,
        )
        return found

    def _backward(self, runtime: Runtime) -> None:
        """As the loop does it, on random tokens."""
        length = self.config.trainer.seq_len
        embedding = self.model.backbone.embedding
        generator = torch.Generator(runtime.device).manual_seed(0)
        shape = (runtime.micro_batch, length + 1)
        tokens = torch.randint(embedding.num_embeddings, shape, device=runtime.device, generator=generator)
        resets = torch.rand(runtime.micro_batch, length, device=runtime.device, generator=generator) < 1 / DOCUMENT
        with runtime.autocast():
            losses = self.model.loss(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), resets)
        (losses.sum() / losses.numel()).backward()

    def _synchronize(self) -> None:
        if self.runtime.device == "cuda":
            torch.cuda.synchronize()

    def _clear(self) -> None:
        self.model.zero_grad(set_to_none=True)
        gc.collect()
        if self.runtime.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def settle_fit(
    path: Path, model: MambaLM, config: Config, runtime: Runtime, *, most: int, attempt: int, beat: Callable[[], None]
) -> Fit:
    """How this attempt computes: as it stands in `path` where that holds here, else as is measured now. The model is set to it.

    most: samples at once, that the plan allows; 0: any number.

    Raises ConfigError where the model fits in no way, MemoryError where it would if other processes had not taken the memory.
    """
    trainer = config.trainer
    most = most or trainer.batch_size
    key = key_of(model, config, runtime)
    known = read(path)
    failed = known.out_of_memory if known and known.key == key else ()
    if known and known.key == key:
        chosen = pick(known.measured, known.room, known.copy, most, failed)
        if chosen:
            set_way(model, chosen.again, chosen.layers)
            log.info("fit as measured before", micro_batch=chosen.micro_batch, again=chosen.again or "nothing")
            return msgspec.structs.replace(known, chosen=chosen)
    probe, began = Probe(model, config, runtime, beat), time.monotonic()
    found = search(
        sizes(trainer.batch_size, most),
        ways(model, trainer.recompute),
        probe.measure,
        lambda one: pick([one], probe.room, probe.copy, most, failed) is not None,
        lambda: time.monotonic() - began < BUDGET_S,
    )
    whole = pick([one for one in found if one.again == STATES], probe.room, probe.copy, most, failed)
    if whole and trainer.recompute == "auto" and time.monotonic() - began < BUDGET_S:
        found.extend(probe.partly(whole))
    chosen = pick(found, probe.room, probe.copy, most, failed)
    if chosen is None:
        raise no_room(found, probe)
    set_way(model, chosen.again, chosen.layers)
    log.info(
        "fit chosen", micro_batch=chosen.micro_batch, again=chosen.again or "nothing", peak=chosen.peak, room=probe.room
    )
    return Fit(
        key=key,
        attempt=attempt,
        room=probe.room,
        copy=probe.copy,
        measured=tuple(found),
        chosen=chosen,
        out_of_memory=failed,
    )


def without(fit: Fit) -> Fit:
    """The record after what was chosen has run out of memory in training: not chosen again."""
    return msgspec.structs.replace(fit, out_of_memory=(*fit.out_of_memory, fit.chosen))


def read(path: Path) -> Fit | None:
    try:
        return schema.load(path, Fit)
    except DataError as error:
        log.warning("how to compute is measured again", why=str(error))
        return None


def key_of(model: MambaLM, config: Config, runtime: Runtime) -> str:
    """A digest of all that a choice holds for."""
    trainer = config.trainer
    parts = {name: part for name, part in runtime.parts().items() if name not in ("python", "micro_batch")}
    parts["driver"] = DRIVER.read_text().splitlines()[0] if runtime.device == "cuda" and DRIVER.exists() else ""
    parts["memory"] = str(torch.cuda.get_device_properties(0).total_memory) if runtime.device == "cuda" else ""
    parts["shapes"] = ", ".join(f"{name} {tuple(value.shape)}" for name, value in model.named_parameters())
    parts["asked"] = f"{trainer.batch_size} x {trainer.seq_len}, {trainer.recompute}, {config.checkpoint.ram}"
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()[:16]


def room_of(device: str) -> int:
    """Bytes that training may take in all, its weights and gradients included."""
    if device == "cuda":
        return gpu_room()
    ours = psutil.Process().memory_info().rss
    return int(min(psutil.virtual_memory().available, cgroup_left()) + ours)


def no_room(found: list[Fitted], probe: Probe) -> Exception:
    """What to raise where nothing fits."""
    peaks = [one.peak for one in found if one.peak]
    least = f"{human_bytes(min(peaks))} and " if peaks else "more than that, and "
    what = (
        f"training this model takes {least}{human_bytes(min(probe.copy, SMALL_BUFFERS))} for snapshots, in the way that takes least; "
        f"there are {human_bytes(probe.room)}"
    )
    if probe.runtime.device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        if total - probe.room > OTHERS * total:
            return MemoryError(
                f"{what}: other processes hold {human_bytes(total - probe.room)} of the GPU (see `nvidia-smi`)"
            )
    return ConfigError(what, "choose a smaller model or seq_len, or a GPU with more memory")
