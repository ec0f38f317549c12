"""The pulses of several ranks as one: the run is as quiet as the rank that has been quiet longest."""

from collections.abc import Iterable
from itertools import count

from msgspec.structs import replace

from adam.contract.errors import AdamError
from adam.contract.paths import RunPaths
from adam.contract.shared import Pulse, SharedWord, read_once

APART_NS = 1_000_000_000  # a rank that is so far behind the first says which phase keeps all waiting


def together(first: Pulse, others: Iterable[Pulse]) -> Pulse:
    """Rank 0's pulse, moving where all ranks do. Pure.

    Ranks wait for one another at each micro-step, and those who wait for the first one's word beat meanwhile: whoever hangs is the quietest.
    """
    ranks = [first, *others]
    if len(ranks) == 1:
        return first
    quietest = min(ranks, key=lambda pulse: pulse.progress_ns)
    far = first.progress_ns - quietest.progress_ns > APART_NS
    told = quietest if far else first
    return replace(
        first, progress=quietest.progress_ns, phase=told.phase, phase_entered_ns=told.phase_entered_ns,
        progress_ns=quietest.progress_ns,
    )  # fmt: skip


class OtherRanks:
    """Reads the pulses of ranks 1, 2, … of an attempt, as far as there are any."""

    def __init__(self, paths: RunPaths) -> None:
        self._paths = paths
        self._words: dict[int, SharedWord[Pulse]] = {}

    def read(self, token: int) -> list[Pulse]:
        """Those of the attempt with `token`. A file is mapped anew until it is this attempt's: it may have been replaced."""
        found = []
        for rank in count(1):
            pulse = self._words[rank].read() if rank in self._words else None
            if pulse is None or pulse.token != token:
                if not self._map(rank):
                    break
                pulse = self._words[rank].read()
            if pulse is not None and pulse.token == token:
                found.append(pulse)
        return found

    def _map(self, rank: int) -> bool:
        """False where there is no such file."""
        if rank in self._words:
            self._words.pop(rank).close()
        try:
            self._words[rank] = SharedWord(self._paths.pulse(str(rank)), Pulse, write=False)
        except FileNotFoundError:
            return False
        return True


def pids_of(paths: RunPaths, token: int) -> set[int]:
    """The processes of all ranks that have beaten for the attempt with `token`."""
    found: set[int] = set()
    for rank in count():
        try:
            pulse = read_once(paths.pulse(str(rank)), Pulse)
        except (OSError, AdamError):
            return found  # a damaged file, or another Adam's
        if pulse is None:
            return found
        if pulse.token == token:
            found.add(pulse.pid)
    return found
