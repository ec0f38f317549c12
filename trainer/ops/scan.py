"""The selective scan in plain PyTorch: a sequential recurrence, time-major, in place, with a hand-written backward.

Work goes in chunks of time whose tensors (T, B, N, D) stay in the cache; only the state at each chunk's start is kept for the
backward, which computes the states inside of a chunk again. Nothing is divided by a decay, so nothing overflows.

    forward    h_t = a_t h_{t-1} + x_t        a_t = exp(dt_t A), 0 at a reset        x_t = dt_t u_t B_t        y_t = C_t h_t
    backward   g_t = C_t dy_t + a_{t+1} g_{t+1}        (the gradient that reaches h_t)
"""

from typing import Any

import torch
from torch import Tensor

# Bytes of one (T, B, N, D) tensor; about four are in use at once. Measured: 4 MiB is fastest on 1 MiB of L2 and 32 MiB of L3 (docs/log.md).
CHUNK_BYTES = 1 << 22


def scan(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, resets: Tensor | None) -> Tensor:
    """y_t = C_t h_t of the recurrence above.

    u, dt: (B, L, D), dt above 0. A: (D, N). B, C: (B, L, N). resets: bool (B, L) or None. All of one float dtype.
    Gives (B, L, D). Bit for bit repeatable for equal inputs and thread counts.
    """
    y: Tensor = _Scan.apply(u, dt, A, B, C, resets)
    return y


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, resets: Tensor | None) -> Tensor:
        dt, du, B, C = (_time_major(t) for t in (dt, dt * u, B, C))
        length, batch, channels = dt.shape
        states = A.shape[1]
        At = A.t().contiguous()
        resets = None if resets is None else resets.t().contiguous()
        steps = _chunk_length(length, batch * states * channels * dt.element_size())
        decay = dt.new_empty(steps, batch, states, channels)
        h = torch.empty_like(decay)
        starts = dt.new_zeros(-(-length // steps), batch, states, channels)
        y = torch.empty_like(dt)
        last = starts[0]
        for number, begin in enumerate(range(0, length, steps)):
            part = slice(begin, min(begin + steps, length))
            count = part.stop - begin
            starts[number].copy_(last)
            _decays(dt[part], At, resets, part, decay[:count])
            _states(du[part], B[part], decay[:count], starts[number], h[:count])
            last = h[count - 1]
            torch.matmul(C[part].unsqueeze(2), h[:count], out=y[part].unsqueeze(2))
        ctx.save_for_backward(u, dt, At, B, C, starts, *([] if resets is None else [resets]))
        ctx.steps = steps
        return y.transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        u, dt, At, B, C, starts, *maybe = ctx.saved_tensors
        resets = maybe[0] if maybe else None
        dy, u = _time_major(grads[0]), _time_major(u)
        du_dt = dt * u
        length = dt.shape[0]
        decay = starts.new_empty(ctx.steps + 1, *starts.shape[1:])
        h = torch.empty_like(decay)
        g, work = torch.empty_like(decay), torch.empty_like(decay)
        carried = torch.zeros_like(starts[0])  # a_{t+1} g_{t+1} from the chunk behind
        d_dt, d_x = torch.empty_like(dt), torch.empty_like(dt)
        d_B, d_C = torch.empty_like(B), torch.empty_like(C)
        d_A = torch.zeros_like(At)
        for number in reversed(range(starts.shape[0])):
            part = slice(number * ctx.steps, min((number + 1) * ctx.steps, length))
            count = part.stop - part.start
            a, before, after = decay[:count], h[:count], h[1 : count + 1]
            _decays(dt[part], At, resets, part, a)
            h[0].copy_(starts[number])
            _states(du_dt[part], B[part], a, starts[number], after)
            torch.matmul(after, dy[part].unsqueeze(3), out=d_C[part].unsqueeze(3))
            torch.mul(C[part].unsqueeze(3), dy[part].unsqueeze(2), out=g[:count])
            g[count - 1].add_(carried)
            for t in range(count - 2, -1, -1):
                g[t].addcmul_(a[t + 1], g[t + 1])
            torch.mul(a[0], g[0], out=carried)
            torch.matmul(B[part].unsqueeze(2), g[:count], out=d_x[part].unsqueeze(2))
            torch.matmul(g[:count], du_dt[part].unsqueeze(3), out=d_B[part].unsqueeze(3))
            # through the decay: d(dt A) = g_t h_{t-1} a_t
            through = g[:count].mul_(before).mul_(a)
            torch.sum(torch.mul(through, At, out=work[:count]), dim=2, out=d_dt[part])
            d_A += through.mul_(dt[part].unsqueeze(2)).sum(dim=(0, 1))
        d_dt.addcmul_(d_x, u)
        d_u = d_x.mul_(dt)
        return (*(t.transpose(0, 1) for t in (d_u, d_dt)), d_A.t(), *(t.transpose(0, 1) for t in (d_B, d_C)), None)


def _time_major(tensor: Tensor) -> Tensor:
    return tensor.transpose(0, 1).contiguous()


def _chunk_length(length: int, bytes_per_step: int) -> int:
    return max(1, min(length, CHUNK_BYTES // bytes_per_step or 1, 64))


def _decays(dt: Tensor, At: Tensor, resets: Tensor | None, part: slice, out: Tensor) -> None:
    """out = exp(dt A), 0 where a document begins. dt: (T, B, D). At: (N, D). out: (T, B, N, D)."""
    torch.mul(dt.unsqueeze(2), At, out=out)
    out.exp_()
    if resets is not None:
        out.masked_fill_(resets[part][:, :, None, None], 0.0)


def _states(du: Tensor, B: Tensor, decay: Tensor, start: Tensor, out: Tensor) -> None:
    """out[t] = decay[t] out[t-1] + du_t B_t, from `start`. du: (T, B, D). B: (T, B, N). out: (T, B, N, D)."""
    torch.mul(du.unsqueeze(2), B.unsqueeze(3), out=out)
    before = start
    for t in range(out.shape[0]):
        before = out[t].addcmul_(decay[t], before)
