"""Verdicts by processes: batches go out as they come and are asked for in the same order, so that nothing else is different."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from adam.contract.errors import AdamError
from adam.contract.process import die_with_parent
from adam.forge.documents import Verdict
from adam.forge.judge import Judge

PART_CHARS = 250_000  # given to a process at once

Texts = Sequence[tuple[str, str]]  # (source, text)
_judges: list[Judge] = []  # of a worker process: one


class Workers:
    """Asks a judge, in `count` processes where that is more than one. They die with this one, and ignore Ctrl-C, which is its."""

    def __init__(self, judge: Judge, count: int) -> None:
        self._judge = judge
        self._pool: ProcessPoolExecutor | None = None
        if count > 1:
            # Not forked: the bar on the terminal is a thread, and what it holds would be held for ever.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(count, context, _begin, (judge, os.getpid()))

    def ask(self, texts: Texts) -> Callable[[], list[Verdict]]:
        """Begin with `texts`; what is given back waits for their verdicts. Raises AdamError there where a process has died."""
        if self._pool is None:
            return lambda: self._judge.judge(texts)
        futures = [self._pool.submit(_judged, part) for part in _parts(texts)]
        return lambda: _all(futures)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _begin(judge: Judge, parent: int) -> None:
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _judges.append(judge)


def _judged(texts: Texts) -> list[Verdict]:
    return _judges[0].judge(texts)


def _parts(texts: Texts) -> list[Texts]:
    parts, first, size = [], 0, 0
    for number, (_, text) in enumerate(texts, 1):
        size += len(text)
        if size >= PART_CHARS or number == len(texts):
            parts.append(texts[first:number])
            first, size = number, 0
    return parts


def _all(futures: Sequence[Future[list[Verdict]]]) -> list[Verdict]:
    try:
        return [verdict for future in futures for verdict in future.result()]
    except BrokenProcessPool:
        raise AdamError(
            "a process that filters documents has died",
            "the next start goes on; set forge.workers lower where memory is short",
        ) from None
