"""How many processes train together, which of them this one is, and how they meet."""

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import structlog
import torch
import torch.distributed as dist

from adam.contract import schema
from adam.contract.config import Trainer
from adam.contract.config_file import load_config
from adam.contract.errors import ConfigError, DataError, GpuError
from adam.contract.paths import RunPaths
from adam.contract.process import state_letter
from adam.contract.records import Numerics, Plan
from adam.trainer.gpu import choose_device
from adam.trainer.ranks import Ranks

GONE = (None, "Z", "X")  # as `state_letter` says it of a process that has ended
GONE_S, ENDED_S = 2.0, 60.0
LOUD = 30  # logging.WARNING: what ranks but the first say

log = structlog.get_logger()


class Place(NamedTuple):
    """This process's place among those that train together."""

    rank: int = 0
    world: int = 1

    @property
    def stacks(self) -> str:
        """The log of this rank's stacks: several can't write one without mixing their lines."""
        return f"stacks-{self.rank}" if self.rank else "stacks"


ALONE = Place()


@contextmanager
def meeting(place: Place, config: Trainer, was_on: str) -> Iterator[None]:
    """The ranks of an attempt, as torch.distributed knows them; where there is one alone, nothing is done.

    A rank that fails because another is gone waits here to be ended: what it has met is no news.

    Raises GpuError, ConfigError as `choose_device`.
    """
    if place.world == 1:
        yield
        return
    device = choose_device(config, was_on)
    if device == "cuda":
        torch.cuda.set_device(place.rank)
    if place.rank:
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(LOUD))
    dist.init_process_group("cuda:nccl,cpu:gloo" if device == "cuda" else "gloo")
    ranks = Ranks().all(os.getpid())
    try:
        yield
    except RuntimeError:
        await_end(ranks)
        raise
    dist.destroy_process_group()  # not where it failed: it would wait for ranks that are gone


def await_end(ranks: list[int]) -> None:
    """Wait for an end where one of these processes is gone already, which the kernel may take a moment to say."""
    deadline = time.monotonic() + GONE_S
    while not any(state_letter(pid) in GONE for pid in ranks):
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)
    time.sleep(ENDED_S)


def count_ranks(config: Trainer, was_on: str, samples: int, gpus: Callable[[], list[str]]) -> int:
    """How many processes are to train.

    Args:
        was_on: the device of the run's last attempt; empty: none.
        samples: that each computes at once.
        gpus: the names of the GPUs that are seen.

    Raises ConfigError where there are fewer GPUs than asked for, or of two kinds; GpuError where the run has been on GPUs.
    """
    if config.gpus == 1:
        return 1
    if config.device == "cpu":
        return 1 if config.gpus == "all" else config.gpus
    names = gpus()
    if config.gpus == "all":
        fitting = [n for n in range(1, len(names) + 1) if config.batch_size % (n * samples) == 0]
        count = max(fitting, default=1)
        if count < len(names):
            log.warning(
                "not all GPUs train", seen=len(names), train=count, batch_size=config.batch_size, at_once=samples
            )
        if not names:
            return 1  # the trainer says what is wrong with that, or that it may be so
    else:
        count = config.gpus
    if count > len(names):
        text = f"trainer.gpus = {count}, but torch sees {len(names)}"
        if was_on.startswith("cuda"):
            raise GpuError(f"{text}, and this run was on {was_on.removeprefix('cuda ')}", "run `adamctl doctor`")
        raise ConfigError(text, "run `adamctl doctor`, or lower it")
    kinds = sorted(set(names[:count]))
    if len(kinds) > 1:
        raise ConfigError(
            f"the GPUs are of different kinds: {', '.join(kinds)}",
            "choose those of one kind with CUDA_VISIBLE_DEVICES, or set trainer.gpus = 1",
        )
    return count


def ranks_of(run: Path) -> int:
    """How many ranks this attempt of a run has. Raises what `count_ranks` and reading the configuration do."""
    paths = RunPaths(run)
    config = load_config(paths.lock).trainer
    if config.gpus == 1:
        return 1
    plan = schema.load(paths.plan, Plan)
    samples = plan.micro_batch if plan is not None and plan.micro_batch else config.micro_batch
    return count_ranks(config, last_parts(paths).get("device", ""), samples, visible_gpus)


def last_parts(paths: RunPaths) -> dict[str, str]:
    """What decided the bits of the last attempt of this run; empty where that is not known."""
    try:
        numerics = schema.load(paths.numerics, Numerics)
    except DataError:
        return {}  # torn by a power cut; it is written anew
    return numerics.parts if numerics is not None else {}


def visible_gpus() -> list[str]:
    """The names of the GPUs that torch sees, asked by a process of its own: CUDA can't be used in a process and in a copy (fork) of it."""
    context = multiprocessing.get_context("fork")
    answer, theirs = context.Pipe(duplex=False)
    asking = context.Process(target=_tell_gpus, args=(theirs,), daemon=True)
    asking.start()
    theirs.close()
    try:
        names: list[str] = answer.recv()
    except EOFError:
        names = []  # it died of what it met
    asking.join()
    return names


def _tell_gpus(answer: Connection) -> None:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    answer.send([torch.cuda.get_device_name(number) for number in range(count)])
    answer.close()
    os._exit(0)
