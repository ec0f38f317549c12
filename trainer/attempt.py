"""One attempt, put together: configuration, data, model and snapshots, from the plan that the policy made."""

import faulthandler
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import structlog
import torch

from adam.contract import schema
from adam.contract.config import Config
from adam.contract.config_file import config_digest, load_config
from adam.contract.errors import BusyError, ConfigError, GpuError, UsageError
from adam.contract.model import ModelConfig, resolved
from adam.contract.paths import RunPaths
from adam.contract.records import BackendReport, Numerics, Plan, Resume
from adam.contract.states import Phase
from adam.contract.steplog import NoLog, StepLog
from adam.trainer.data import open_data
from adam.trainer.fit import settle_fit, without
from adam.trainer.gpu import is_gpu_gone
from adam.trainer.heart import Heart
from adam.trainer.loop import Loop
from adam.trainer.memory import STATE_BYTES, STATES, gpu_room, settle_states
from adam.trainer.model.lm import MambaLM
from adam.trainer.ops.backends import make_ops
from adam.trainer.optim import make_optimizer
from adam.trainer.owed import Owed
from adam.trainer.place import ALONE, Place, last_parts, meeting
from adam.trainer.restore import restore
from adam.trainer.runtime import Runtime, fingerprint, set_up
from adam.trainer.snapshot import Identity, Position, Snapshots
from adam.trainer.spread import WEIGHT_BYTES, keeps_gathered, spread
from adam.trainer.together import Together
from adam.trainer.weights import begin_with

# What torch says where the host's allocator, CUDA itself (pinned memory, the context) or cuBLAS had too little.
OUT_OF_MEMORY = ("DefaultCPUAllocator: ", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")

log = structlog.get_logger()


def run_attempt(run: Path, token: int, stop_requested: Callable[[], bool], place: Place = ALONE) -> bool:
    """Train as `run/plan.json` says. True when all steps are done, False when somebody asked to stop.

    place: this process's among those that train together.

    Raises AdamError of the kind that says what is wrong, MemoryError where host or GPU has too little.
    """
    paths = RunPaths(run)
    plan = _read_plan(paths, token)
    config = load_config(paths.lock)
    heart = Heart(paths, plan.attempt, token, place.rank)
    heart.enter(Phase.LOADING)
    try:
        with _stacks_into(paths.log(place.stacks)), meeting(place, config.trainer, last_parts(paths).get("device", "")):
            together = Together(heart, stop_requested, place.rank, place.world)
            return _train(paths, plan, config, heart, together)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise MemoryError(str(error)) from error
        if is_gpu_gone(error):
            raise GpuError(str(error).splitlines()[0]) from error
        raise


@contextmanager
def _stacks_into(path: Path) -> Iterator[None]:
    """Have SIGUSR1 write the stacks of all threads into `path`; into the log, where the disk does not take another file."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        log.warning("stacks go into the log", why=str(error))
        fd = os.dup(2)
    faulthandler.register(signal.SIGUSR1, file=fd, all_threads=True)
    try:
        yield
    finally:
        faulthandler.unregister(signal.SIGUSR1)
        os.close(fd)


def is_out_of_memory(error: RuntimeError) -> bool:
    """True for torch's errors of too little memory: only those of its GPU allocator have a class of their own."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in OUT_OF_MEMORY)


def _read_plan(paths: RunPaths, token: int) -> Plan:
    plan = schema.load(paths.plan, Plan)
    if plan is None or plan.program != "trainer":
        raise UsageError(f"{paths.plan} has no plan for the trainer", "start the run with `adamctl up`")
    if plan.token != token:
        raise BusyError(f"the plan has token {plan.token}, this trainer was started with {token}")
    return plan


def _train(paths: RunPaths, plan: Plan, config: Config, heart: Heart, together: Together) -> bool:
    runtime = _set_up(paths, plan, config, together)
    data = open_data(paths, config.trainer.seq_len)
    shape = resolved(config.model, data.manifest.vocab_size)
    model = make_model(shape, config.trainer.seed, runtime)
    owed = Owed(writes=together.first)
    fit, recompute = None, False
    if config.trainer.fit == "auto":
        heart.enter(Phase.CHECKING)
        fit = settle_fit(
            paths.fit, model, config, runtime, most=plan.micro_batch, attempt=plan.attempt, beat=heart.beat
        )
        owed.save(paths.fit, fit)
        runtime = msgspec.structs.replace(runtime, micro_batch=fit.chosen.micro_batch)
        recompute = fit.chosen.again == STATES
        heart.enter(Phase.LOADING)
    else:
        recompute = settle_states(model, config.trainer, runtime, _room(model, runtime, together))
    if not plan.resume and config.trainer.weights:
        begin_with(paths.root / config.trainer.weights, model, shape, heart.beat)
    if together.world > 1:
        spread(model, runtime.device, keep=keeps_gathered(model, runtime.device))
    optimizer = make_optimizer(model, config.trainer)
    identity = Identity(
        run=paths.identity,
        attempt=plan.attempt,
        token=plan.token,
        parent=plan.resume.checkpoint if plan.resume else "",
        fingerprint=fingerprint(runtime.parts()),
        config_digest=config_digest(shape),
        data_digest=data.manifest.splits["train"].tokens.sha256,
        rank=together.rank,
        world=together.world,
    )
    heart.beat()
    position = Position()
    if plan.resume:
        position = _resume(paths, plan.resume, model, optimizer, identity, heart.beat)
    parts = runtime.parts()
    numerics = Numerics(attempt=plan.attempt, step=position.step, fingerprint=identity.fingerprint, parts=parts)
    owed.save(paths.numerics, numerics)
    report = BackendReport(attempt=plan.attempt, name=runtime.backend, failed=runtime.failed, recompute=recompute)
    owed.save(paths.backend_report, report)
    heart.beat(step=position.step)
    snapshots = Snapshots(paths, model, optimizer, identity, use_ram=config.checkpoint.ram == "auto")
    steps = StepLog(paths) if together.first else NoLog(paths)
    log.info("training", step=position.step, of=config.trainer.steps, attempt=plan.attempt, **parts)
    loop = Loop(
        config=config,
        plan=plan,
        runtime=runtime,
        data=data,
        model=model,
        optimizer=optimizer,
        snapshots=snapshots,
        steps=steps,
        heart=heart,
        owed=owed,
        validation=paths.validation,
        together=together,
    )
    try:
        return loop.run(position)
    except RuntimeError as error:
        if fit is not None and is_out_of_memory(error):
            owed.save(paths.fit, without(fit))  # the next attempt takes less
        raise
    finally:
        snapshots.close()
        steps.close()


def _set_up(paths: RunPaths, plan: Plan, config: Config, together: Together) -> Runtime:
    """How this rank computes: as all do. The first one checks kernels and compiles them; the others find that done."""

    def mine() -> Runtime:
        before = last_parts(paths)
        return set_up(config.trainer, config.model, plan, paths.kernel_checks, before, together.world)

    runtime = mine() if together.first else None
    together.told(0)
    runtime = runtime or mine()
    backends = together.each(runtime.backend)
    if len(set(backends)) > 1:
        raise ConfigError(
            f"the GPUs can't compute alike: their backends are {', '.join(backends)}", "name one as trainer.backend"
        )
    return runtime


def _room(model: MambaLM, runtime: Runtime, together: Together) -> int:
    """Bytes of a GPU that training may take, as if all of weights, gradients and moments were there, though only a part of them is."""
    if runtime.device != "cuda":
        return 0
    weights = sum(parameter.numel() for parameter in model.parameters())
    elsewhere = STATE_BYTES * weights * (together.world - 1) // together.world
    gathered = WEIGHT_BYTES * weights if together.world > 1 and keeps_gathered(model, runtime.device) else 0
    return min(together.each(gpu_room())) + elsewhere - gathered


def _resume(
    paths: RunPaths,
    resume: Resume,
    model: MambaLM,
    optimizer: torch.optim.AdamW,
    identity: Identity,
    beat: Callable[[], None],
) -> Position:
    """From the slot that the plan names, else from the checkpoint."""
    directory = Path(resume.slot) if resume.slot else paths.checkpoints / resume.checkpoint
    return restore(directory, model, optimizer, identity, committed=not resume.slot, beat=beat)


def make_model(shape: ModelConfig, seed: int, runtime: Runtime) -> MambaLM:
    """The model with its first weights."""
    torch.manual_seed(seed)
    # Drawn where they are to be: 2.8 billion random numbers take a CPU a minute, at each start.
    with torch.device(runtime.device):
        return MambaLM(shape, make_ops(runtime.backend, runtime.device), runtime.linear)
