"""The selective scan in plain PyTorch: a sequential recurrence over time, in place, with a hand-written backward.

    forward    h_t = a_t h_{t-1} + dt_t u_t B_t        a_t = exp(dt_t A), 0 at a reset        y_t = C_t h_t
    backward   g_t = C_t dy_t + a_{t+1} g_{t+1}        (the gradient that reaches h_t)

Work goes in chunks of time whose tensors (B, T, N, D) stay in the cache; only the state at each chunk's start is kept for the
backward, which computes the states inside of a chunk again. Nothing is divided by a decay, so nothing overflows.
Source: arXiv 2312.00752, algorithm 2, and section 3.3.2 for computing the states again.

Three choices made it 2 times faster on a CPU (ns per element of (B, L, N, D), 2 threads of an AMD EPYC, torch 2.13):
`exp2` of a rescaled A, since torch's `exp` goes through MKL (0.6, and 10 where results underflow; exp2: 0.4 and 1);
sums over channels as a row times a matrix (0.14) and not a matrix times a column (0.66); resets as a huge step size, whose
decay is 0, and not as a mask over the chunk.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Bytes of one (B, T, N, D) tensor; three are in use at once. On 2 x 512 KiB of L2, 4 MiB is as fast, 1 MiB takes 15 % longer.
CHUNK_BYTES = 1 << 21
MAX_CHUNK = 64  # tokens


def scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, resets: Tensor | None, initial: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(y_t = C_t h_t of the recurrence above, h after the last token).

    u, dt: (B, L, D), dt above 0. A: (D, N), below 0. B, C: (B, L, N). resets: bool (B, L) or None.
    initial: (B, D, N), h before the first token, or None for 0. All of one float dtype.
    Gives (B, L, D) and (B, D, N). Bit for bit repeatable for equal inputs and thread counts. Differentiable once.
    """
    y, last = _Scan.apply(u, dt, A, B, C, resets, initial)
    return y, last


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, resets: Tensor | None, initial: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        inputs = _Inputs.of(u, dt, A, B, C, resets)
        batch, length, channels = u.shape
        state = (batch, A.shape[1], channels)
        steps = _chunk_length(length, math.prod(state) * u.element_size())
        starts = u.new_empty(-(-length // steps), *state)
        decay_buffer, state_buffer = (u.new_empty(steps * math.prod(state)) for _ in range(2))
        y = torch.empty_like(u)
        last = u.new_zeros(state) if initial is None else initial.transpose(1, 2)
        for number, begin in enumerate(range(0, length, steps)):
            chunk = inputs.chunk(slice(begin, begin + steps))
            decay, h = (chunk.shaped(buffer) for buffer in (decay_buffer, state_buffer))
            starts[number] = last
            chunk.decays(decay)
            chunk.states(decay, starts[number], h)
            last = h[:, -1]
            y[:, begin : begin + steps] = torch.matmul(chunk.C.unsqueeze(2), h).squeeze(2)
        ctx.save_for_backward(u, dt, A, B, C, starts, *([] if resets is None else [resets]))
        ctx.steps, ctx.starts_anew = steps, initial is None
        return y, last.transpose(1, 2).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, d_last: Tensor) -> tuple[Tensor | None, ...]:
        u, dt, A, B, C, starts, *maybe = ctx.saved_tensors
        inputs = _Inputs.of(u, dt, A, B, C, maybe[0] if maybe else None)
        buffers = [starts.new_empty(ctx.steps * starts[0].numel()) for _ in range(3)]
        # a_{t+1} g_{t+1} of the chunk behind; written into, so never the gradient's own memory
        carried = d_last.transpose(1, 2).clone(memory_format=torch.contiguous_format)
        d_x, d_dt, d_B, d_C = (torch.empty_like(tensor) for tensor in (u, dt, B, C))
        d_A = torch.zeros_like(inputs.At)
        for number in reversed(range(starts.shape[0])):
            part = slice(number * ctx.steps, (number + 1) * ctx.steps)
            chunk, dy_part = inputs.chunk(part), dy[:, part]
            decay, h, g = (chunk.shaped(buffer) for buffer in buffers)
            chunk.decays(decay)
            chunk.states(decay, starts[number], h)
            d_C[:, part] = _over_channels(h, dy_part)
            torch.mul(chunk.C.unsqueeze(3), dy_part.unsqueeze(2), out=g)
            _gather_backwards(g, decay, carried)
            d_x[:, part] = torch.matmul(chunk.B.unsqueeze(2), g).squeeze(2)
            d_B[:, part] = _over_channels(g, chunk.x)
            # The gradient of dt_t A is g_t a_t h_{t-1}; g and then h make room for it.
            through = g.mul_(decay)
            through[:, 1:].mul_(h[:, :-1])
            through[:, 0].mul_(starts[number])
            d_dt[:, part] = torch.mul(through, inputs.At, out=h).sum(2)
            d_A += through.mul_(chunk.dt.unsqueeze(2)).sum((0, 1))
        d_initial = None if ctx.starts_anew else carried.transpose(1, 2)
        return d_x * dt, d_dt.addcmul_(d_x, u), d_A.t(), d_B, d_C, None, d_initial


class _Inputs(NamedTuple):
    """What the recurrence reads: x = dt u; `span`, the dt of the decays, huge at resets; At and its rescaling, (N, D)."""

    x: Tensor
    dt: Tensor
    span: Tensor
    At: Tensor
    At_log2: Tensor
    B: Tensor
    C: Tensor

    @classmethod
    def of(cls, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, resets: Tensor | None) -> "_Inputs":
        span = dt if resets is None else dt.masked_fill(resets.unsqueeze(2), torch.finfo(dt.dtype).max)
        At = A.t().contiguous()
        return cls(dt * u, dt, span, At, At * math.log2(math.e), B, C)

    def chunk(self, part: slice) -> "_Inputs":
        return _Inputs(
            self.x[:, part],
            self.dt[:, part],
            self.span[:, part],
            self.At,
            self.At_log2,
            self.B[:, part],
            self.C[:, part],
        )

    def shaped(self, buffer: Tensor) -> Tensor:
        """The front of a flat buffer as (B, T, N, D), T being this chunk's length: contiguous in a short last chunk, too."""
        shape = (*self.x.shape[:2], *self.At.shape)
        return buffer[: math.prod(shape)].view(shape)

    def decays(self, out: Tensor) -> None:
        """out = exp(dt A), 0 where a document begins."""
        torch.mul(self.span.unsqueeze(2), self.At_log2, out=out)
        out.exp2_()

    def states(self, decay: Tensor, start: Tensor, out: Tensor) -> None:
        """out[:, t] = decay[:, t] out[:, t-1] + x_t B_t, from `start`."""
        torch.mul(self.x.unsqueeze(2), self.B.unsqueeze(3), out=out)
        before = start
        for a, h in zip(decay.unbind(1), out.unbind(1), strict=True):
            before = h.addcmul_(a, before)


def _gather_backwards(g: Tensor, decay: Tensor, carried: Tensor) -> None:
    """g[:, t] += decay[:, t+1] g[:, t+1], from `carried` at the end; `carried` becomes what the chunk before takes on."""
    gs, decays = g.unbind(1), decay.unbind(1)
    gs[-1].add_(carried)
    for t in range(len(gs) - 2, -1, -1):
        gs[t].addcmul_(decays[t + 1], gs[t + 1])
    torch.mul(decays[0], gs[0], out=carried)


def _over_channels(states: Tensor, row: Tensor) -> Tensor:
    """Sums over D of states times row. states: (B, T, N, D). row: (B, T, D). Gives (B, T, N)."""
    return torch.matmul(row.unsqueeze(2), states.transpose(2, 3)).squeeze(2)


def _chunk_length(length: int, bytes_per_token: int) -> int:
    return max(1, min(length, CHUNK_BYTES // bytes_per_token, MAX_CHUNK))
