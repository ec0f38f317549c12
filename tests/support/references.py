"""The recurrences token by token in float64, written from the equations alone: what every backend is tested against."""

import torch
import torch.nn.functional as F


def selective_scan(u, delta, A, B, C, D, z, delta_bias, resets):
    return selective_scan_from(u, delta, A, B, C, D, z, delta_bias, resets, None)[0]


def selective_scan_from(u, delta, A, B, C, D, z, delta_bias, resets, initial):
    dt = F.softplus(delta + delta_bias)
    batch, length, channels = u.shape
    h = u.new_zeros(batch, channels, A.shape[1]) if initial is None else initial
    out = []
    for t in range(length):
        if resets is not None:
            h = torch.where(resets[:, t, None, None], torch.zeros_like(h), h)
        h = torch.exp(dt[:, t, :, None] * A) * h + dt[:, t, :, None] * B[:, t, None, :] * u[:, t, :, None]
        out.append((h * C[:, t, None, :]).sum(-1))
    return (torch.stack(out, 1) + D * u) * F.silu(z), h


def ssd(x, dt, A, B, C, D, dt_bias, resets):
    dt = F.softplus(dt + dt_bias)
    heads, groups = x.shape[2], B.shape[2]
    B, C = (t.repeat_interleave(heads // groups, dim=2) for t in (B, C))
    h = torch.zeros(x.shape[0], heads, x.shape[3], B.shape[3], dtype=x.dtype)
    out = []
    for t in range(x.shape[1]):
        if resets is not None:
            h = torch.where(resets[:, t, None, None, None], torch.zeros_like(h), h)
        decay = torch.exp(dt[:, t] * A)[:, :, None, None]
        h = decay * h + (dt[:, t, :, None] * x[:, t])[..., None] * B[:, t, :, None, :]
        out.append((h * C[:, t, :, None, :]).sum(-1))
    return torch.stack(out, 1) + D[:, None] * x


def causal_conv1d(x, weight, bias, resets):
    out = torch.zeros_like(x)
    taps = weight.shape[1]
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            begin = t
            while begin > 0 and t - begin < taps - 1 and not (resets is not None and resets[b, begin]):
                begin -= 1
            window = x[b, begin : t + 1]
            out[b, t] = bias + (window * weight[:, taps - len(window) :].T).sum(0)
    return F.silu(out)
