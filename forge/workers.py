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
    """Asks a judge, in `count` processes where that is more than one. They die with this one, and ignore Ctrl-C, which is its.

    Args:
        alone: characters that are judged in this process first: for a little text, starting others takes longer.
    """

    def __init__(self, judge: Judge, count: int, alone: int = 0) -> None:
        self._judge, self._count, self._alone = judge, count, alone
        self._pool: ProcessPoolExecutor | None = None

    def ask(self, texts: Texts) -> Callable[[], list[Verdict]]:
        """Begin with `texts`; what is given back waits for their verdicts. Raises AdamError there where a process has died."""
        self._alone -= sum(len(text) for _, text in texts)
        if self._count == 1 or self._alone >= 0:
            return lambda: self._judge.judge(texts)
        if self._pool is None:
            # Not forked: the bar on the terminal is a thread, and what it holds would be held for ever.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._count, context, _begin, (self._judge, os.getpid()))
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
