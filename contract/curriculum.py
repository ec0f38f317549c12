"""Where the phases of the data begin: in tokens (the manifest has that), in samples (whose length the trainer decides) and in steps."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from adam.contract.shards import TokensManifest, TokenSplit


class PhaseSamples(NamedTuple):
    """The train samples of a phase: `samples` of them from number `first` on. None where a phase is shorter than one."""

    name: str
    first: int
    samples: int


def sample_count(split: TokenSplit, seq_len: int) -> int:
    """Whole windows in a split: window i holds the tokens i·L … i·L + L."""
    return max(0, split.count - 1) // seq_len


def phase_samples(tokens: TokensManifest, seq_len: int) -> list[PhaseSamples]:
    """The phases in order; of a run without phases none. A sample in which a phase begins belongs to the one before."""
    count = sample_count(tokens.splits["train"], seq_len)
    firsts = [min(count, -(-phase.first // seq_len)) for phase in tokens.phases]
    ends = [*firsts, count][1:]
    return [
        PhaseSamples(phase.name, first, end - first)
        for phase, first, end in zip(tokens.phases, firsts, ends, strict=True)
    ]


def segments(tokens: TokensManifest, seq_len: int) -> tuple[int, ...]:
    """The first sample of each phase that has any, from 0 up: (0,) where all samples are one phase."""
    return tuple(phase.first for phase in phase_samples(tokens, seq_len) if phase.samples) or (0,)


def first_steps(
    tokens: TokensManifest, seq_len: int, batch_size: int, skip: Sequence[tuple[int, int]] = ()
) -> list[tuple[str, int]]:
    """(name, the step whose update has its first sample) of each phase that has samples, in the first epoch; steps count from 1.

    `skip`: half-open ranges of positions that a plan leaves out, in any order; they may overlap.
    """
    return [
        (phase.name, (phase.first - _skipped_before(phase.first, skip)) // batch_size + 1)
        for phase in phase_samples(tokens, seq_len)
        if phase.samples
    ]


def _skipped_before(position: int, skip: Sequence[tuple[int, int]]) -> int:
    skipped = reached = 0
    for start, end in sorted(skip):
        skipped += max(0, min(end, position) - max(start, reached))
        reached = max(reached, end)
    return skipped


def data_digest(tokens: TokensManifest) -> str:
    """What a position in the data hangs on: the train tokens, and where phases part them. Without phases the tokens' own digest."""
    train = tokens.splits["train"]
    parts = sorted({phase.first for phase in tokens.phases if 0 < phase.first < train.count - 1})
    if not parts:
        return train.tokens.sha256
    return hashlib.sha256(" ".join([train.tokens.sha256, *map(str, parts)]).encode()).hexdigest()
