"""Validation: the same windows every time, in nats per token and in bits per byte of text."""

import hashlib
import math
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec
import torch

from adam.contract.schema import Record
from adam.trainer.data import Batch, Data
from adam.trainer.model.lm import MambaLM
from adam.trainer.sums import all_sums
from adam.trainer.together import Together

CHUNK = 256  # tokens whose logits are there twice over


class Score(NamedTuple):
    """`loss` in nats per token. `bits_per_byte` counts the text's bytes; the mark before a document has bits and no byte."""

    loss: float
    bits_per_byte: float
    seconds: float


class Tally(Record, frozen=True, kw_only=True):
    """How far a validation has come (`run/validation.json`, writer: trainer): where its process dies, the next one goes on with it.

    `key` says of which validation: those of other weights, data or bits have nothing to do with it.
    """

    key: str
    windows: int = 0
    nats: float = 0.0
    targets: int = 0
    text_bytes: int = 0
    seconds: float = 0.0

    @property
    def score(self) -> Score:
        bits = self.nats / math.log(2) / self.text_bytes if self.text_bytes else math.nan
        return Score(self.nats / self.targets, bits, self.seconds)


def key_of(parameters: Iterable[torch.Tensor], *rest: object) -> str:
    """The `key` of a Tally: of the weights' every bit, and of whatever else decides the score's."""
    sums = all_sums([parameter.detach() for parameter in parameters])
    return hashlib.sha256(repr((sums, rest)).encode()).hexdigest()


class Sureness(NamedTuple):
    """How sure a model is of what it says, right or wrong. Means over tokens."""

    entropy: float  # of the predicted distribution, nats
    logits_norm: float  # Euclidean


@torch.no_grad()
def sureness(logits: torch.Tensor) -> Sureness:
    """logits: (..., V), of any float dtype; computed in fp32, some tokens at a time."""
    entropy, norm, tokens = 0.0, 0.0, logits.flatten(0, -2)
    for part in tokens.split(CHUNK):
        logs = part.float().log_softmax(-1)
        entropy -= float((logs.exp() * logs).sum(dtype=torch.float64))
        norm += float(torch.linalg.vector_norm(part.float(), dim=-1).sum(dtype=torch.float64))
    return Sureness(entropy / len(tokens), norm / len(tokens))


@torch.no_grad()
def evaluate(
    model: MambaLM,
    data: Data,
    *,
    tokens: int,
    micro_batch: int,
    forward: Callable[[Batch], torch.Tensor],
    tally: Tally,
    keep: Callable[[Tally], None],
    together: Together,
) -> Score:
    """The score over the first `tokens` validation tokens (whole windows, at least one).

    Args:
        forward: a batch to the losses of its targets, (B, L) fp32, in nats.
        tally: what an earlier process has done of it; the score is the same to the bit.
        keep: called with how far it has come after each micro-batch.
        together: the ranks, each of which computes a micro-batch at a time, in order.
    """
    windows = max(1, min(data.val.count, tokens // data.val.seq_len))
    model.eval()
    began = time.perf_counter() - tally.seconds
    for begin in range(tally.windows, windows, together.world * micro_batch):
        own = range(windows)[together.share(begin, micro_batch)]
        batch = data.val.batch(list(own) or [begin])  # what is spread over the ranks is computed by all or by none
        losses = forward(batch)
        nats, targets, text_bytes = together.sums(
            float(losses.sum(dtype=torch.float64)) if own else 0.0,
            batch.targets.numel() if own else 0,
            int(data.token_bytes[batch.targets].sum()) if own else 0,
        )
        tally = msgspec.structs.replace(
            tally,
            windows=min(begin + together.world * micro_batch, windows),
            nats=tally.nats + nats,
            targets=tally.targets + int(targets),
            text_bytes=tally.text_bytes + int(text_bytes),
            seconds=time.perf_counter() - began,
        )
        keep(tally)
    model.train()
    return tally.score
