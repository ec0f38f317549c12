"""Trainers as processes of their own that need not import torch: copies of a server that has (multiprocessing's forkserver).

What they do from there on is what `python -m adam.trainer` does.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

from msgspec.structs import replace
from small_run import small_config

from adam.contract.config import Config
from adam.contract.durable import whole_lines
from adam.contract.model import ModelConfig
from adam.contract.output import never_fail
from adam.contract.paths import RunPaths
from adam.contract.records import Plan, StepRow, decode_step

PRELOADED = [
    "adam.trainer.attempt",
    "adam.trainer.agent",
    "torch.distributed.elastic.multiprocessing.api",
    "torch.distributed.fsdp",
    "torch.distributed.launcher.api",
    "born",
]
LONGEST_S = 500.0


def nursery() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def live(run: str, token: int, environment: dict[str, str]) -> None:
    """The life of a trainer, in a process of its own."""
    from adam.contract.errors import run_main
    from adam.trainer.__main__ import attempt
    from adam.trainer.host import prepare

    os.setpgid(0, 0)
    log = os.open(RunPaths(Path(run)).log("trainer"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(log, number)
    os.environ |= {"ADAM_TOKEN": str(token), **environment}
    never_fail()
    prepare()
    sys.exit(run_main("adam.trainer", lambda: attempt(Path(run))))


@contextmanager
def trainer(paths: RunPaths, plan: Plan, **environment: str) -> Iterator[BaseProcess]:
    """An attempt that has begun; nobody of it is left behind the context."""
    process = nursery().Process(target=live, args=(str(paths.root), plan.token, environment))
    process.start()
    try:
        yield process
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.kill()
        process.join()


def train(paths: RunPaths, plan: Plan, **environment: str) -> int:
    """The exit code of an attempt; minus a signal's number."""
    with trainer(paths, plan, **environment) as process:
        process.join(LONGEST_S)
        assert process.exitcode is not None, paths.log("trainer").read_text()
        return process.exitcode


def rows(paths: RunPaths) -> list[StepRow]:
    return [decode_step(line, paths.steps) for _, line in whole_lines(paths.steps)]


def bits(paths: RunPaths) -> list[tuple[object, ...]]:
    return [(row.step, row.loss, row.grad_norm, row.val_loss, row.first_sample) for row in rows(paths)]


def config(world: int, arch: str = "mamba1", **trainer) -> Config:
    """Of a tiny model that `world` ranks train; some of its tensors have fewer rows than there are ranks."""
    values = {"steps": 30, "batch_size": 8, "micro_batch": 2, "eval_every": 15, "eval_tokens": 112, **trainer}
    made = small_config(gpus=world, **values)
    shape = ModelConfig(arch=arch, d_model=12, n_layer=2, d_state=4, headdim=8, chunk_size=8)
    return replace(made, model=shape)
