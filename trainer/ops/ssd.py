"""Mamba-2's state-space duality in plain PyTorch: attention-like products inside chunks, a recurrence between them.

Decays enter only as exp of a difference of cumulative sums that is never above 0, so nothing overflows; what lies across a
document's beginning is masked out before the exponential. Source: arXiv 2405.21060, section 6 and listing 1.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def ssd(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, resets: Tensor | None, chunk_size: int) -> Tensor:
    """y_t = C_t h_t of h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t, per head.

    x: (B, L, H, P). dt: (B, L, H), above 0. A: (H,), below 0. B, C: (B, L, H, N). resets: bool (B, L) or None.
    All of one float dtype. Gives (B, L, H, P).
    """
    length = x.shape[1]
    size = min(chunk_size, length)
    pad = -length % size
    document = torch.zeros_like(dt[:, :, 0], dtype=torch.int64) if resets is None else resets.cumsum(1)
    if pad:
        # dt = 0 neither decays the state nor adds to it.
        x, B, C = (F.pad(t, (0, 0, 0, 0, 0, pad)) for t in (x, B, C))
        dt, document = F.pad(dt, (0, 0, 0, pad)), F.pad(document, (0, pad), value=-1)
    x, dt, B, C, document = (t.unflatten(1, (-1, size)) for t in (x, dt, B, C, document))
    log_decay = (dt * A).cumsum(2)
    inside = _within_chunks(x, dt, B, C, log_decay, document)
    across = _across_chunks(x, dt, B, C, log_decay, document)
    return (inside + across).flatten(1, 2)[:, :length]


def _masked_exp(exponent: Tensor, keep: Tensor) -> Tensor:
    return torch.where(keep, exponent, -torch.inf).exp()


def _within_chunks(x: Tensor, dt: Tensor, B: Tensor, C: Tensor, log_decay: Tensor, document: Tensor) -> Tensor:
    """What tokens of one chunk and one document give one another. x: (B, K, Q, H, P); K chunks of Q tokens."""
    size = x.shape[2]
    causal = torch.ones(size, size, dtype=torch.bool, device=x.device).tril()
    keep = causal & (document[:, :, :, None] == document[:, :, None, :])
    exponent = log_decay.transpose(2, 3).unsqueeze(-1) - log_decay.transpose(2, 3).unsqueeze(-2)
    weights = _masked_exp(exponent, keep.unsqueeze(2)) * torch.einsum("bkihn,bkjhn->bkhij", C, B)
    return torch.einsum("bkhij,bkjh,bkjhp->bkihp", weights, dt, x)


def _across_chunks(x: Tensor, dt: Tensor, B: Tensor, C: Tensor, log_decay: Tensor, document: Tensor) -> Tensor:
    """What the state at a chunk's start gives its tokens: those of the document that was open there."""
    last = log_decay[:, :, -1:]
    to_end = _masked_exp(last - log_decay, (document == document[:, :, -1:]).unsqueeze(-1))
    added = torch.einsum("bkjh,bkjhn,bkjhp->bkhnp", to_end * dt, B, x)
    before = F.pad(document[:, :-1, -1], (1, 0), value=-2)  # the document that was open when the chunk began
    kept = _masked_exp(last[:, :, 0], (document[:, :, -1] == before).unsqueeze(-1))
    from_start = _masked_exp(log_decay, (document == before.unsqueeze(-1)).unsqueeze(-1))
    state = torch.zeros_like(added[:, 0])
    starts = []
    for chunk in range(x.shape[1]):
        starts.append(state)
        state = kept[:, chunk, :, None, None] * state + added[:, chunk]
    return torch.einsum("bkih,bkihn,bkhnp->bkihp", from_start, C, torch.stack(starts, dim=1))
