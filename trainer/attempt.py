"""One attempt, put together: configuration, data, model and snapshots, from the plan that the policy made."""

import faulthandler
import signal
from collections.abc import Callable
from pathlib import Path

import structlog
import torch

from adam.contract import schema
from adam.contract.config import Config
from adam.contract.config_file import config_digest, load_config
from adam.contract.durable import LineAppender
from adam.contract.errors import BusyError, UsageError
from adam.contract.model import resolved
from adam.contract.paths import RunPaths
from adam.contract.records import Numerics, Plan, Resume
from adam.contract.states import Phase
from adam.trainer.data import Data, open_data
from adam.trainer.heart import Heart
from adam.trainer.loop import Loop
from adam.trainer.model.lm import MambaLM
from adam.trainer.ops.reference import ReferenceOps
from adam.trainer.optim import make_optimizer
from adam.trainer.restore import restore
from adam.trainer.runtime import Runtime, fingerprint, set_up
from adam.trainer.snapshot import Identity, Position, Snapshots

# What torch says where the host's allocator, CUDA itself (pinned memory, the context) or cuBLAS had too little.
OUT_OF_MEMORY = ("DefaultCPUAllocator: ", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")

log = structlog.get_logger()


def run_attempt(run: Path, token: int, stop_requested: Callable[[], bool]) -> bool:
    """Train as `run/plan.json` says. True when all steps are done, False when somebody asked to stop.

    Raises AdamError of the kind that says what is wrong, MemoryError where host or GPU has too little.
    """
    paths = RunPaths(run)
    plan = _read_plan(paths, token)
    config = load_config(paths.lock)
    heart = Heart(paths, plan.attempt, token)
    stacks = paths.log("stacks").open("a")
    faulthandler.register(signal.SIGUSR1, file=stacks, all_threads=True)
    heart.enter(Phase.LOADING)
    try:
        return _train(paths, plan, config, heart, stop_requested)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise MemoryError(str(error)) from error
        raise
    finally:
        faulthandler.unregister(signal.SIGUSR1)
        stacks.close()


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


def _train(paths: RunPaths, plan: Plan, config: Config, heart: Heart, stop_requested: Callable[[], bool]) -> bool:
    runtime = set_up(config.trainer, plan)
    data = open_data(paths, config.trainer.seq_len)
    model, digest = _make_model(config, data, runtime)
    optimizer = make_optimizer(model, config.trainer)
    identity = Identity(
        run=paths.identity,
        attempt=plan.attempt,
        token=plan.token,
        parent=plan.resume.checkpoint if plan.resume else "",
        fingerprint=fingerprint(runtime.parts()),
        config_digest=digest,
        data_digest=data.manifest.splits["train"].tokens.sha256,
    )
    heart.beat()
    position = Position()
    if plan.resume:
        position = _resume(paths, plan.resume, model, optimizer, identity, heart.beat)
    _record_numerics(paths, plan, position, runtime, identity.fingerprint)
    heart.beat(step=position.step)
    snapshots = Snapshots(paths, model, optimizer, identity, use_ram=config.checkpoint.ram == "auto")
    steps = LineAppender(paths.steps)
    log.info("training", step=position.step, of=config.trainer.steps, attempt=plan.attempt, **runtime.parts())
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
        stop_requested=stop_requested,
    )
    try:
        return loop.run(position)
    finally:
        snapshots.close()


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


def _make_model(config: Config, data: Data, runtime: Runtime) -> tuple[MambaLM, str]:
    """The model with its first weights, and the digest of its shape."""
    shape = resolved(config.model, data.manifest.vocab_size)
    torch.manual_seed(config.trainer.seed)
    # Drawn where they are to be: 2.8 billion random numbers take a CPU a minute, at each start.
    with torch.device(runtime.device):
        return MambaLM(shape, ReferenceOps()), config_digest(shape)


def _record_numerics(paths: RunPaths, plan: Plan, position: Position, runtime: Runtime, digest: str) -> None:
    record = Numerics(attempt=plan.attempt, step=position.step, fingerprint=digest, parts=runtime.parts())
    schema.save(paths.numerics, record)
