"""Several ranks on this machine: torchrun's agent (torch.distributed.elastic) starts them, and ends all when one has ended badly.

    launcher ── adam-trainer (this: the agent) ─┬─ adam-rank-0
                                                └─ adam-rank-1 …

The agent restarts nothing: that is the watchdog's to decide. Ranks are copies (fork) of it, so they have torch at once, hold the lease, write
the same log and are in one process group. It ends as the first rank did that ended badly, by the same code or signal; what becomes of the
others then is no news. Signals: who wants an end (SIGTERM, SIGINT) is passed on as SIGINT, for SIGTERM is how the agent ends ranks at once;
SIGUSR1, for stacks, goes to all.
"""

import faulthandler
import logging
import multiprocessing
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable

from adam.contract.errors import run_main
from adam.contract.output import last_words
from adam.contract.process import die_with_parent, let_be_traced, name_process
from adam.contract.states import Exit
from adam.trainer.place import Place

LOOK_S = 0.05  # how often the agent looks at its ranks
ENDED = (int(Exit.OK), int(Exit.STOPPED))
QUIET = (
    "torch.distributed.elastic.multiprocessing.api",
    "torch.multiprocessing.spawn",
)  # they tell the same again, at length

Attempt = Callable[[Place], int]


def load() -> None:
    """Import what the agent and its ranks need besides the trainer's own, so that copies of this process have it."""
    import torch.distributed.elastic.agent.server.local_elastic_agent
    import torch.distributed.elastic.rendezvous.c10d_rendezvous_backend
    import torch.distributed.fsdp  # noqa: F401


def run_ranks(world: int, attempt: Attempt) -> int:
    """Have `world` ranks make one attempt each; the code to end with. Where a rank was ended by a signal, this process ends by it.

    attempt: what a rank does, to its exit code. This process must have no CUDA, and no threads.
    """
    from torch.distributed.elastic.multiprocessing.api import LogsDest, LogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    load()

    class OneLog(LogsSpecs):
        """All ranks write where this process does, and no files of their own."""

        def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:
            none = dict.fromkeys(envs, "")
            return LogsDest(none, none, {}, {}, none)

        @property
        def root_log_dir(self) -> str:
            return ""

    for name in QUIET:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    faulthandler.unregister(signal.SIGUSR1)  # ranks inherit what it believes to be set, and could not set it again
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, pass_on(number, signal.getsignal(number)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=world,
        logs_specs=OneLog(),
        run_id=f"adam-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        monitor_interval=LOOK_S,
        start_method="fork",
        signals_to_handle="SIGHUP",  # the others are ours
    )
    try:
        codes = elastic_launch(config, rank_main)(attempt, os.getpid())
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        return end_as(rank, failure.pid, failure.exitcode)
    return int(max(codes.values()))


def pass_on(number: int, before: object) -> Callable[[int, object], None]:
    """A handler that does as the one before, and tells the ranks."""
    to_ranks = signal.SIGUSR1 if number == signal.SIGUSR1 else signal.SIGINT

    def handle(number: int, frame: object) -> None:
        if callable(before):
            before(number, frame)
        for rank in multiprocessing.active_children():
            if rank.pid is not None:
                os.kill(rank.pid, to_ranks)

    return handle


def end_as(rank: int, pid: int, code: int) -> int:
    """The exit code of a rank that ended so; where that was a signal, the same signal ends this process."""
    if code >= 0:
        return code
    name = signal.Signals(-code).name
    last_words(f"adam.trainer: rank {rank} (process {pid}) was ended by {name}")
    sys.stdout.flush()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the rank has left one, where one is wanted
    signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
    os.kill(os.getpid(), -code)
    return int(Exit.CODE)


def rank_main(attempt: Attempt, agent: int) -> int:
    """A rank, from its birth to its code; what is not right ends the process with it."""
    place = Place(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    die_with_parent(agent)
    let_be_traced()
    name_process(f"adam-rank-{place.rank}")
    # The handler of the agent, inherited, sets the flag that the loop asks; there is nobody here that it would be passed on to.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        code = run_main("adam.trainer", lambda: attempt(place))
    except Exception:
        traceback.print_exc()  # torch would have the agent tell it, at greater length
        raise
    if code not in ENDED:
        sys.stdout.flush()
        sys.exit(code)
    return code
