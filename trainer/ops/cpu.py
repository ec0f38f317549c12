"""The native backend of CPUs: the scan and the convolution in C++ (`kernels/cpu_*.cpp`), the reference for the rest.

Bit for bit repeatable, for any number of threads.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from adam.trainer.ops import cpu_build
from adam.trainer.ops.reference import ReferenceOps

GROUP, STEPS, MOST_TAPS = 128, 32, 8  # as in the sources
Address = ctypes.c_void_p


class _Rows(ctypes.Structure):
    _fields_ = [("at", Address), ("sequence", ctypes.c_long), ("step", ctypes.c_long)]


def _structure(**types: str) -> type[ctypes.Structure]:
    """Fields of C of these names, several of a type separated by spaces: `rows`, `pointers` and `longs` with a number behind them."""
    of = {"rows": _Rows, "pointers": Address, "longs": ctypes.c_long}
    fields = [(name, of[kind.rstrip("0123456789")]) for kind, names in types.items() for name in names.split()]
    return type("Operands", (ctypes.Structure,), {"_fields_": fields})


_Scan = _structure(
    rows="u delta z B C",
    pointers="A D bias resets initial",
    longs="batch length channels states threads",
    pointers2="out starts last",
)
_Gradients = _structure(pointers="dout d_last du ddelta dz dB dC dA dD dbias d_initial")
_Conv = _structure(
    pointers="x",
    longs="sequence step",
    pointers2="taps bias resets",
    longs2="batch length channels count threads",
    pointers3="y dy dx dtaps dbias",
)


class CpuOps(ReferenceOps):
    """`Ops` for CPUs that have a C++ compiler. What is not fp32 inside is the reference's. Raises BuildError."""

    def __init__(self) -> None:
        self.library = cpu_build.library()

    def selective_scan_from(
        self,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor,
        z: Tensor,
        delta_bias: Tensor,
        resets: Tensor | None,
        initial: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        if u.dtype == torch.float64 or not u.numel() or not A.numel():
            return super().selective_scan_from(u, delta, A, B, C, D, z, delta_bias, resets, initial)
        with torch.autocast("cpu", enabled=False):
            given = (_in_rows(tensor.float()) for tensor in (u, delta, z, B, C))
            wide = (A.float().t().contiguous(), D.float().contiguous(), delta_bias.float().contiguous())
            begin = None if initial is None else initial.float().transpose(1, 2).contiguous()
            found: tuple[Tensor, Tensor] = _SelectiveScan.apply(
                self.library, *given, *wide, None if resets is None else resets.contiguous(), begin
            )
            return found[0].to(u.dtype), found[1].transpose(1, 2)

    def causal_conv1d(self, x: Tensor, weight: Tensor, bias: Tensor | None, resets: Tensor | None) -> Tensor:
        if x.dtype == torch.float64 or not x.numel() or weight.shape[1] > MOST_TAPS:
            return super().causal_conv1d(x, weight, bias, resets)
        with torch.autocast("cpu", enabled=False):
            taps = weight.float().flip(1).t().contiguous()
            bias = None if bias is None else bias.float().contiguous()
            resets = None if resets is None else resets.contiguous()
            y: Tensor = _CausalConv.apply(self.library, _in_rows(x.float()), taps, bias, resets)
            return y.to(x.dtype)


class _SelectiveScan(torch.autograd.Function):
    """u, delta, z, B, C as `_in_rows`; A: (N, D); initial and the last state: (B, N, D)."""

    @staticmethod
    def forward(ctx: Any, library: ctypes.CDLL, *operands: Tensor | None) -> tuple[Tensor, Tensor]:
        u, A = operands[0], operands[5]
        assert u is not None and A is not None
        batch, length, _ = u.shape
        out = torch.empty(u.shape)
        keep = any(ctx.needs_input_grad)
        last, starts = torch.empty(batch, *A.shape), torch.empty(batch, -(-length // STEPS) if keep else 0, *A.shape)
        scan = _of(operands, out, starts if keep else None, last)
        library.scan_forward(ctypes.byref(scan))
        ctx.library = library
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*operands, starts)
        return out, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor | None, d_last: Tensor | None) -> tuple[Tensor | None, ...]:
        *operands, starts = ctx.saved_tensors
        u, _, _, _, _, A, *_, initial = operands
        batch, length, channels = u.shape
        states, groups = len(A), -(-channels // GROUP)
        dout = torch.zeros(u.shape) if dout is None else dout.contiguous()
        d_last = None if d_last is None else d_last.contiguous()
        du, ddelta, dz = (torch.empty(u.shape) for _ in range(3))
        dB, dC = (torch.empty(batch, groups, length, states) for _ in range(2))
        dA, d_initial = (torch.empty(batch, states, channels) for _ in range(2))
        dD, dbias = (torch.empty(batch, channels) for _ in range(2))
        scan = _of(operands, None, starts, None)
        gradients = _Gradients(*map(_address, (dout, d_last, du, ddelta, dz, dB, dC, dA, dD, dbias, d_initial)))
        ctx.library.scan_backward(ctypes.byref(scan), ctypes.byref(gradients))
        dB, dC = (_added(ctx.library, share) for share in (dB, dC))
        dA, dD, dbias = (_added(ctx.library, share.unsqueeze(0))[0] for share in (dA, dD, dbias))
        return None, du, ddelta, dz, dB, dC, dA, dD, dbias, None, None if initial is None else d_initial


class _CausalConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, library: ctypes.CDLL, x: Tensor, taps: Tensor, bias: Tensor | None, resets: Tensor | None
    ) -> Tensor:
        y = torch.empty(x.shape)
        library.conv(ctypes.byref(_convolution(x, taps, bias, resets, y=y)))
        ctx.library = library
        ctx.save_for_backward(x, taps, bias, resets)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, taps, bias, resets = ctx.saved_tensors
        dx, dtaps, dbias = torch.empty(x.shape), torch.empty(len(x), *taps.shape), torch.empty(len(x), x.shape[2])
        more = {"dy": dy.contiguous(), "dx": dx, "dtaps": dtaps, "dbias": dbias}
        ctx.library.conv(ctypes.byref(_convolution(x, taps, bias, resets, **more)))
        dtaps, dbias = (_added(ctx.library, share.unsqueeze(0))[0] for share in (dtaps, dbias))
        return None, dx, dtaps, None if bias is None else dbias, None


def _of(operands: Sequence[Tensor | None], out: Tensor | None, starts: Tensor | None, last: Tensor | None) -> Any:
    """The operands as the sources know them; they must live as long as what is given."""
    sequences, others = operands[:5], operands[5:]
    u, A = operands[0], operands[5]
    assert u is not None and A is not None
    rows = (_Rows(_address(one), one.stride(0), one.stride(1)) for one in sequences if one is not None)
    sizes = (*u.shape, len(A), torch.get_num_threads())
    return _Scan(*rows, *map(_address, others), *sizes, *map(_address, (out, starts, last)))


def _convolution(x: Tensor, taps: Tensor, bias: Tensor | None, resets: Tensor | None, **more: Tensor) -> Any:
    given = {"x": x, "taps": taps, "bias": bias, "resets": resets, **more}
    sizes = dict(zip(("batch", "length", "channels"), x.shape, strict=True))
    sizes |= {"sequence": x.stride(0), "step": x.stride(1), "count": len(taps), "threads": torch.get_num_threads()}
    return _Conv(**{name: _address(tensor) for name, tensor in given.items()}, **sizes)


def _added(library: ctypes.CDLL, shares: Tensor) -> Tensor:
    """(sets, …): of contiguous shares, (sets, parts, …), the sums over parts, in their order."""
    sets, parts, *shape = shares.shape
    out = torch.empty(sets, *shape)
    numbers = (ctypes.c_long(number) for number in (sets, parts, out[0].numel(), torch.get_num_threads()))
    library.add_shares(Address(shares.data_ptr()), Address(out.data_ptr()), *numbers)
    return out


def _in_rows(tensor: Tensor) -> Tensor:
    """Itself where what lies in a row is side by side, else a copy."""
    return tensor if tensor.stride(2) == 1 else tensor.contiguous()


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
