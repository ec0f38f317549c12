"""What every backend's selective scan must do, told of one backend: `tests/trainer` and `tests/gpu` ask the same of theirs.

`Scan` says which: its operations, where and in what type, and how near to float64 its results are (of the largest value).
"""

from dataclasses import dataclass

import pytest
import references
import torch
from torch import Tensor

from adam.trainer.ops.interface import Ops

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
KEPT_WIDE = ("A", "D", "delta_bias", "initial")  # at least fp32, whatever the others are


@dataclass(frozen=True)
class Scan:
    ops: Ops
    device: str
    dtype: torch.dtype
    tolerance: float

    def inputs(self, batch: int, length: int, channels: int, states: int, *, slow: float = 0.0) -> dict[str, Tensor]:
        """Random operands, and a state to begin with. slow: how much shorter steps are, in the exponent."""
        g = torch.Generator().manual_seed(0)
        sequence, each = (batch, length, channels), (batch, length, states)
        shapes = (sequence, sequence, (channels, states), each, each, (channels,), sequence, (channels,))
        values = {name: torch.randn(*shape, generator=g) for name, shape in zip(NAMES, shapes, strict=True)}
        values["A"] = -values["A"].exp()
        values["delta"] -= slow
        values["initial"] = torch.randn(batch, channels, states, generator=g)
        wide = torch.promote_types(self.dtype, torch.float32)
        return {
            name: value.to(self.device, wide if name in KEPT_WIDE else self.dtype).requires_grad_()
            for name, value in values.items()
        }

    def resets(self, batch: int, length: int, share: float = 0.1) -> Tensor:
        return (torch.rand(batch, length, generator=torch.Generator().manual_seed(1)) < share).to(self.device)

    def both_ways(self, values: dict[str, Tensor], resets: Tensor | None) -> tuple[Tensor, ...]:
        """Output, last state, and the gradients of all that goes in."""
        results = self.ops.selective_scan_from(**values, resets=resets)
        return self._with_gradients(results, values)

    def exactly(self, values: dict[str, Tensor], resets: Tensor | None) -> tuple[Tensor, ...]:
        exact = {name: value.detach().double().requires_grad_() for name, value in values.items()}
        return self._with_gradients(references.selective_scan_from(**exact, resets=resets), exact)

    def _with_gradients(self, results: tuple[Tensor, Tensor], values: dict[str, Tensor]) -> tuple[Tensor, ...]:
        out, last = results
        g = torch.Generator().manual_seed(2)
        coming = [torch.randn(result.shape, generator=g).to(result) for result in results]
        gradients = torch.autograd.grad((out, last), tuple(values.values()), [c.to(self.dtype).to(c) for c in coming])
        return (out.detach(), last.detach(), *gradients)

    def near(self, found: tuple[Tensor, ...], right: tuple[Tensor, ...]) -> None:
        for name, a, b in zip(("out", "last", *NAMES, "initial"), found, right, strict=True):
            distance = float((a.double() - b.double()).abs().max()) / float(b.double().abs().max())
            assert distance <= self.tolerance, f"{name}: {distance:.1e}"


def equals_the_recurrence(scan: Scan, shape: tuple[int, int, int, int], *, documents: bool) -> None:
    values = scan.inputs(*shape)
    resets = scan.resets(*shape[:2]) if documents else None
    scan.near(scan.both_ways(values, resets), scan.exactly(values, resets))


def long_sequences_stay_near(scan: Scan) -> None:
    """Slow decays add up rounding over the sequence; 4,096 tokens are twice the window that people train with."""
    values = scan.inputs(1, 4096, 4, 4, slow=6)
    scan.near(scan.both_ways(values, None), scan.exactly(values, None))


def packed_documents_equal_documents_apart(scan: Scan) -> None:
    values = scan.inputs(1, 40, 6, 3)
    resets = torch.zeros(1, 40, dtype=torch.bool, device=scan.device)
    resets[0, [11, 12, 31]] = True
    del values["initial"]
    out = scan.ops.selective_scan(**values, resets=resets)
    pieces = []
    for part in (slice(0, 11), slice(11, 12), slice(12, 31), slice(31, 40)):
        piece = {name: value[:, part] if value.ndim == 3 else value for name, value in values.items()}
        pieces.append(scan.ops.selective_scan(**piece, resets=None))
    apart = torch.cat(pieces, 1)
    gradients = [torch.autograd.grad(y.square().sum(), tuple(values.values())) for y in (out, apart)]
    for name, a, b in zip(("out", *NAMES), (out.detach(), *gradients[0]), (apart.detach(), *gradients[1]), strict=True):
        assert float((a - b).abs().max()) <= scan.tolerance * float(b.abs().max()), name


def pieces_that_hand_the_state_on_equal_the_whole(scan: Scan) -> None:
    values = scan.inputs(2, 50, 6, 3)
    resets = scan.resets(2, 50)
    whole = scan.both_ways(values, resets)
    state, outs = values["initial"], []
    for part in (slice(0, 1), slice(1, 18), slice(18, 50)):
        piece = {name: value[:, part] if value.shape[1:2] == (50,) else value for name, value in values.items()}
        out, state = scan.ops.selective_scan_from(**(piece | {"initial": state}), resets=resets[:, part])
        outs.append(out)
    scan.near(scan._with_gradients((torch.cat(outs, 1), state), values), whole)


def a_reset_forgets_all_at_any_decay(scan: Scan, rate: float) -> None:
    """The step that stands for a reset must be long enough for the slowest decay, and not be NaN for the fastest."""
    values = {name: value.detach() for name, value in scan.inputs(1, 6, 4, 4).items()}
    del values["initial"]
    values["A"] = torch.full_like(values["A"], -rate)
    resets = torch.tensor([[False, False, False, True, False, False]], device=scan.device)
    after = {name: value[:, 3:] if value.ndim == 3 else value for name, value in values.items()}
    found = scan.ops.selective_scan(**values, resets=resets)[:, 3:]
    torch.testing.assert_close(found, scan.ops.selective_scan(**after, resets=None), rtol=1e-6, atol=1e-6)


def autocast_changes_nothing(scan: Scan) -> None:
    values = scan.inputs(2, 20, 6, 3)
    with torch.autocast(scan.device, dtype=torch.bfloat16):
        results = scan.ops.selective_scan_from(**values, resets=None)
    found = scan._with_gradients(results, values)
    assert all(torch.equal(a, b) for a, b in zip(found, scan.both_ways(values, None), strict=True))


def gradients_may_lie_anyhow(scan: Scan) -> None:
    """What comes back from a sum is one number, expanded; from a transposition, strided."""
    values = scan.inputs(2, 9, 6, 3)
    del values["initial"]
    out = scan.ops.selective_scan(**values, resets=None)
    plain = torch.autograd.grad(out, tuple(values.values()), torch.ones_like(out), retain_graph=True)
    expanded = torch.autograd.grad(out.sum(), tuple(values.values()), retain_graph=True)
    strided = torch.autograd.grad((out.transpose(0, 2) * 1).sum(), tuple(values.values()))
    torch.testing.assert_close(expanded, plain)
    torch.testing.assert_close(strided, plain)


def what_is_no_number_shows(scan: Scan) -> None:
    """One NaN in an operand reaches all that the recurrence says, and is not rounded to a number on its way."""
    for name in (*NAMES, "initial"):
        values = scan.inputs(1, 20, 8, 16)
        with torch.no_grad():
            values[name].view(-1)[3] = torch.nan
        for found, right in zip(scan.both_ways(values, None)[:2], scan.exactly(values, None)[:2], strict=True):
            assert torch.equal(found.isnan(), right.isnan()), name


def is_differentiable_once(scan: Scan) -> None:
    values = scan.inputs(1, 5, 4, 16)
    out, _ = scan.ops.selective_scan_from(**values, resets=None)
    (gradient,) = torch.autograd.grad(out.square().sum(), values["u"], create_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        gradient.sum().backward()
