"""Validation: the same windows every time, in nats per token and in bits per byte of text."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch

from adam.trainer.data import Batch, Data
from adam.trainer.model.lm import MambaLM

CHUNK = 256  # tokens whose logits are there twice over


class Score(NamedTuple):
    """`loss` in nats per token. `bits_per_byte` counts the text's bytes; the mark before a document has bits and no byte."""

    loss: float
    bits_per_byte: float


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
    beat: Callable[[int, int], None],
) -> Score:
    """The score over the first `tokens` validation tokens (whole windows, at least one).

    Args:
        forward: a batch to the losses of its targets, (B, L) fp32, in nats.
        beat: called with (windows done, windows in all) after each micro-batch.
    """
    windows = max(1, min(data.val.count, tokens // data.val.seq_len))
    nats, targets, text_bytes = 0.0, 0, 0
    model.eval()
    for begin in range(0, windows, micro_batch):
        samples = list(range(begin, min(begin + micro_batch, windows)))
        batch = data.val.batch(samples)
        nats += float(forward(batch).sum(dtype=torch.float64))
        targets += batch.targets.numel()
        text_bytes += int(data.token_bytes[batch.targets].sum())
        beat(samples[-1] + 1, windows)
    model.train()
    return Score(nats / targets, nats / math.log(2) / text_bytes if text_bytes else math.nan)
