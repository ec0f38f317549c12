"""What the native operations beside the scan must do, told of a device and a type: `tests/trainer` and `tests/gpu` ask the same.

Each case has operands and a call; results and gradients are compared with the reference's in float64, in the 2-norm.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from adam.trainer.ops.interface import Ops
from adam.trainer.ops.native import NativeOps
from adam.trainer.ops.reference import ReferenceOps

EPSILON = 1e-5
Values = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """`wide` operands are fp32 in any case."""

    values: Values
    call: Callable[[Ops, Values], Tensor | tuple[Tensor, ...]]
    wide: tuple[str, ...] = ()


@dataclass(frozen=True)
class On:
    device: str
    dtype: torch.dtype
    tolerance: float

    def given(self, case: Case) -> Values:
        return {
            name: value.to(self.device, torch.float32 if name in case.wide else self.dtype).requires_grad_()
            for name, value in case.values.items()
        }

    def both_ways(self, ops: Ops, case: Case, values: Values) -> list[Tensor]:
        """Results, and the gradients of all that goes in."""
        precise = next(iter(values.values())).dtype not in (torch.bfloat16, torch.float16)
        device = next(iter(values.values())).device.type
        with nullcontext() if precise else torch.autocast(device, dtype=self.dtype):
            found = case.call(ops, values)
        results = found if isinstance(found, tuple) else (found,)
        g = torch.Generator().manual_seed(9)
        coming = [torch.randn(result.shape, generator=g).to(result) for result in results]
        return [*(result.detach() for result in results), *torch.autograd.grad(results, tuple(values.values()), coming)]

    def equals_the_reference(self, case: Case) -> None:
        values = self.given(case)
        exact = {name: value.detach().cpu().double().requires_grad_() for name, value in values.items()}
        found, right = self.both_ways(NativeOps(), case, values), self.both_ways(ReferenceOps(), case, exact)
        for number, (a, b) in enumerate(zip(found, right, strict=True)):
            distance = float((a.cpu().double() - b).norm() / (b.norm() + 1e-30))
            assert distance <= self.tolerance, f"result {number} of {len(found)}: {distance:.1e}"

    def comes_out_the_same_twice(self, case: Case) -> None:
        first, again = (self.both_ways(NativeOps(), case, self.given(case)) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def beginnings(batch: int, length: int, share: float = 0.15) -> Tensor:
    return torch.rand(batch, length, generator=torch.Generator().manual_seed(1)) < share


def conv(batch: int, length: int, channels: int, taps: int, *, documents: bool = True, bias: bool = True) -> Case:
    values = {"x": draw(batch, length, channels), "weight": draw(channels, taps, seed=1)}
    values |= {"bias": draw(channels, seed=2)} if bias else {}
    resets = beginnings(batch, length) if documents else None

    def call(ops: Ops, given: Values) -> Tensor:
        x = given["x"]
        return ops.causal_conv1d(x, given["weight"], given.get("bias"), None if resets is None else resets.to(x.device))

    return Case(values, call, ("weight", "bias"))


def add_norm(batch: int, length: int, width: int) -> Case:
    values = {
        "x": draw(batch, length, width),
        "residual": draw(batch, length, width, seed=1),
        "weight": draw(width, seed=2),
    }
    return Case(
        values,
        lambda ops, given: ops.add_rms_norm(given["x"], given["residual"], given["weight"], EPSILON),
        ("residual", "weight"),
    )


def first_norm(batch: int, length: int, width: int) -> Case:
    values = {"x": draw(batch, length, width), "weight": draw(width, seed=2)}
    return Case(
        values, lambda ops, given: ops.add_rms_norm(given["x"], None, given["weight"], EPSILON), ("x", "weight")
    )


def gated_norm(batch: int, length: int, width: int, groups: int) -> Case:
    values = {"x": draw(batch, length, width), "z": draw(batch, length, width, seed=1), "weight": draw(width, seed=2)}
    return Case(
        values,
        lambda ops, given: ops.gated_rms_norm(given["x"], given["z"], given["weight"], EPSILON, groups),
        ("weight",),
    )


def loss(batch: int, length: int, width: int, vocabulary: int) -> Case:
    values = {"hidden": draw(batch, length, width), "weight": draw(vocabulary, width, seed=1) / width**0.5}
    targets = torch.randint(0, vocabulary, (batch, length), generator=torch.Generator().manual_seed(3))
    targets[0, 0] = vocabulary - 1

    def call(ops: Ops, given: Values) -> Tensor:
        return ops.cross_entropy(given["hidden"], given["weight"], targets.to(given["hidden"].device))

    return Case(values, call, ("weight",))


def ssd(batch: int, length: int, heads: int, groups: int, states: int, *, documents: bool = True) -> Case:
    """Steps and decays as Mamba-2 begins with, so that much comes from before a chunk."""
    each = (batch, length, groups, states)
    values = {
        "x": draw(batch, length, heads, 64),
        "dt": draw(batch, length, heads, seed=1),
        "A": -draw(heads, seed=2).exp(),
        "B": draw(*each, seed=3),
        "C": draw(*each, seed=4),
        "D": draw(heads, seed=5),
        "dt_bias": draw(heads, seed=6) - 4,
    }
    resets = beginnings(batch, length, 0.01) if documents else None

    def call(ops: Ops, given: Values) -> Tensor:
        where = None if resets is None else resets.to(given["x"].device)
        return ops.ssd(**given, resets=where, chunk_size=64)

    return Case(values, call, ("A", "D", "dt_bias"))


def packed_documents_equal_documents_apart(on: On) -> None:
    """Beginnings inside a chunk, at its first and at its last token, one after another."""
    case, cuts = ssd(1, 300, 2, 1, 16), (0, 5, 6, 127, 128, 200, 256, 300)
    values = {name: value.detach() for name, value in on.given(case).items()}
    resets = torch.zeros(1, 300, dtype=torch.bool, device=on.device)
    resets[0, list(cuts[1:-1])] = True
    whole = NativeOps().ssd(**values, resets=resets, chunk_size=64)
    pieces = []
    for begin, end in pairwise(cuts):
        part = {name: value[:, begin:end] if value.ndim > 1 else value for name, value in values.items()}
        pieces.append(NativeOps().ssd(**part, resets=None, chunk_size=64))
    apart = torch.cat(pieces, 1)
    assert float((whole - apart).float().norm() / apart.float().norm()) <= on.tolerance


def a_reset_forgets_all_at_any_decay(on: On) -> None:
    """What came before is huge, and the decay may be none at all."""
    for rate in (1e-30, 1e-3, 1e3):
        values = {name: value.detach() for name, value in on.given(ssd(1, 200, 2, 1, 16)).items()}
        values["A"] = torch.full_like(values["A"], -rate)
        values["x"][:, :150] *= 1e4
        resets = torch.zeros(1, 200, dtype=torch.bool, device=on.device)
        resets[0, 150] = True
        found = NativeOps().ssd(**values, resets=resets, chunk_size=64)[:, 150:]
        after = {name: value[:, 150:] if value.ndim > 1 else value for name, value in values.items()}
        right = NativeOps().ssd(**after, resets=None, chunk_size=64)
        assert float((found - right).float().norm() / right.float().norm()) <= on.tolerance


def the_bits_do_not_hang_on_what_is_kept(on: On) -> None:
    case = ssd(2, 200, 2, 1, 16)
    kept, recomputed = (on.both_ways(NativeOps(recompute=way), case, on.given(case)) for way in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(kept, recomputed, strict=True))


def gradients_stay_in_their_document(on: On) -> None:
    x, weight = draw(1, 9, 8).to(on.device).requires_grad_(), draw(8, 4, seed=1).to(on.device)
    resets = torch.zeros(1, 9, dtype=torch.bool, device=on.device)
    resets[0, [5, 6]] = True
    out = NativeOps().causal_conv1d(x, weight, None, resets)
    (gradient,) = torch.autograd.grad(out[0, 5].sum(), x)
    assert not gradient[0, :5].any() and gradient[0, 5].all() and not gradient[0, 6:].any()


def slices_of_wider_rows_are_read_where_they_lie(on: On) -> None:
    """As a model hands them over: x and z are halves of in_proj's output."""
    wide = draw(2, 11, 48).to(on.device, on.dtype).requires_grad_()
    weight, norm = draw(24, 4, seed=1).to(on.device), draw(24, seed=2).to(on.device)
    x, z = wide.chunk(2, dim=-1)
    plain_x, plain_z = (part.detach().contiguous().requires_grad_() for part in (x, z))
    ops = NativeOps()
    for call in (
        lambda x, z: ops.causal_conv1d(x, weight, None, None) * z,
        lambda x, z: ops.gated_rms_norm(x, z, norm, EPSILON, 2),
        lambda x, z: ops.gated_rms_norm(z, x, norm, EPSILON, 2),
    ):
        found, right = call(x, z), call(plain_x, plain_z)
        assert torch.equal(found, right)
        (g,) = torch.autograd.grad(found.sum(), wide, retain_graph=True)
        assert torch.equal(g, torch.cat(torch.autograd.grad(right.sum(), (plain_x, plain_z)), 2))


def what_is_no_number_shows(on: On) -> None:
    for case in (conv(1, 9, 8, 4), add_norm(1, 3, 8), gated_norm(1, 3, 8, 2), loss(1, 3, 8, 12)):
        values = on.given(case)
        with torch.no_grad():
            next(iter(values.values())).view(-1)[3] = torch.nan
        found = case.call(NativeOps(), values)
        assert (found[0] if isinstance(found, tuple) else found).isnan().any()


def operators_are_what_torch_takes_them_for(on: On) -> None:
    x, weight, bias = draw(2, 9, 8), draw(8, 4, seed=1), draw(8, seed=2)
    x, weight, bias = (value.to(on.device).requires_grad_() for value in (x, weight, bias))
    z, resets = draw(2, 9, 8, seed=4).to(on.device).requires_grad_(), beginnings(2, 9).to(on.device)
    hidden, words = (draw(n, 8, seed=5).to(on.device).requires_grad_() for n in (6, 12))
    targets = torch.arange(6, device=on.device)
    ops = torch.ops.adam
    for operator, operands in (
        (ops.causal_conv, (x, weight, bias, resets)),
        (ops.causal_conv, (x, weight, bias, None)),
        (ops.add_rms_norm, (x, z, bias, EPSILON, 2)),
        (ops.add_rms_norm, (None, z, bias, EPSILON, 0)),
        (ops.gated_rms_norm, (x, z, bias, EPSILON, 2)),
        (ops.cross_entropy, (hidden, words, targets, True)),
        (ops.cross_entropy, (hidden, words, targets, False)),
    ):
        torch.library.opcheck(operator, operands)
    values = On(on.device, torch.bfloat16, 0).given(ssd(1, 140, 2, 1, 16))
    for keep in (False, True):
        torch.library.opcheck(ops.ssd, (*values.values(), beginnings(1, 140).to(on.device), keep))


def is_differentiable_once(on: On) -> None:
    for case in (conv(1, 9, 8, 4), add_norm(1, 3, 8), gated_norm(1, 3, 8, 2), loss(1, 3, 8, 12)):
        values = on.given(case)
        found = case.call(NativeOps(), values)
        operand = next(iter(values.values()))
        out = found[0] if isinstance(found, tuple) else found
        (gradient,) = torch.autograd.grad(out.square().sum(), operand, create_graph=True)
        with pytest.raises(RuntimeError, match="once"):
            gradient.sum().backward()
